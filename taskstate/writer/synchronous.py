"""Synchronous mode, for tests: a writer without a thread, with the same interface."""

from __future__ import annotations

import logging
import time
from typing import Callable

from django.core.exceptions import SynchronousOnlyOperation

from taskstate import conf
from taskstate.stores import Change, Store
from taskstate.stores.errors import Blocker, exc_info, find_blocker, log_level, summarize
from taskstate.transitions.pending import PendingTask
from taskstate.transitions.transition import (
    FIELDS,
    MESSAGE_ID,
    DeferredTransition,
    RawTransition,
)
from taskstate.utils.warn_once import ActorWarnings
from taskstate.writer.buffer import Normalize
from taskstate.writer.flusher import Flusher
from taskstate.writer.outage_log import MIGRATE
from taskstate.writer.stats import Observer, Stats, StatsRecorder, no_observer
from taskstate.writer.writer import Writer

logger = logging.getLogger(__name__)


class SynchronousWriter:
    """Writes each transition at once, on the connection of the calling thread.  An error is logged
    and counted, but never raised.

    Parameters (the others are those of ``Writer``):
      fallback(Writer): Gets the transitions that can't be written in the calling thread: in an
        event loop, Django allows no access to a database in memory.
    """

    def __init__(
        self,
        *,
        normalize: Normalize,
        open_store: Callable[[], Store],
        announce: Callable[[Change], None],
        register: Callable[[SynchronousWriter], None],
        fallback: Writer,
        make_observer: Callable[[], Observer] = lambda: no_observer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._normalize = normalize
        self._open_store = open_store
        self._announce = announce
        self._register = register
        self._fallback = fallback
        self._make_observer = make_observer
        self._clock = clock
        self._warnings = ActorWarnings(logger)
        self._reset()

    def _reset(self) -> None:
        self._observe = self._make_observer()
        self._recorder = StatsRecorder()

    def push(self, transition: RawTransition) -> None:
        """Write a transition."""
        error = self._write(transition)
        if isinstance(error, SynchronousOnlyOperation) and conf.is_in_memory():
            self._fallback.push(transition)
        elif error is not None:
            self._handle_failure(transition, error)

    def push_deferred(self, deferred: DeferredTransition) -> None:
        """Write the transition of a run that reports progress."""
        transition = deferred.to_transition()
        if transition is None:
            return
        error = self._write(transition)
        if isinstance(error, SynchronousOnlyOperation):
            logger.debug(
                "Progress was reported in an event loop. The next state of the task includes it."
            )
        elif error is not None:
            self._handle_failure(transition, error)

    def _write(self, transition: RawTransition) -> Exception | None:
        """Write a transition and announce it.  Return the error if it can't be written."""
        (normalized,) = self._normalize([transition])
        if normalized is None:
            return None
        self._register(self)
        flusher = Flusher(
            open_store=self._open_store,
            stats=self._recorder,
            clock=self._clock,
            owns_connections=False,
            warnings=self._warnings,
        )
        result = flusher.flush([PendingTask(normalized)])
        error = result.slow[0][1] if result.slow else result.error
        if isinstance(error, Exception):
            return error
        if error is not None:
            raise error
        self._recorder.add(transitions=1)
        for seconds in result.seconds:
            self._observe(self.stats, seconds)
        for change in result.changes:
            self._announce(change)
        return None

    def _handle_failure(self, transition: RawTransition, error: Exception) -> None:
        self._recorder.add(transitions=1, failed_flushes=1, last_error=summarize(error))
        is_missing = find_blocker(error) is Blocker.MISSING
        logger.log(
            log_level(error),
            "The state of task %s could not be written, and is not tried again "
            "(TASKSTATE['SYNCHRONOUS'] is on, as it is by default for an SQLite database in "
            "memory).%s",
            transition[FIELDS][MESSAGE_ID],
            f" {MIGRATE}" if is_missing else "",
            exc_info=exc_info(error),
        )

    # The rest of a writer's interface.

    def flush(self, timeout: float | None = None) -> bool:
        """Return True, since nothing is ever pending."""
        return True

    def stop(self, timeout: float | None = None) -> bool:
        """Return True, since there is no thread to end."""
        return True

    def stats(self) -> Stats:
        """Return what this writer has done so far."""
        return self._recorder.totals

    def before_fork(self, seconds: float) -> bool:
        """Return True, since there is no thread."""
        return True

    def after_fork_in_parent(self) -> None:
        """Do nothing, since there is no thread."""

    def after_fork_in_child(self) -> Store | None:
        """Start again without the statistics of the parent.  Return None, since there is no store
        to keep."""
        self._reset()
        return None
