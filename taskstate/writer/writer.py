"""``Writer``: accepts transitions, and writes them in the background."""

from __future__ import annotations

import logging
import time
from typing import Callable

from taskstate.conf import Config, Options
from taskstate.stores import Change, Store
from taskstate.stores.errors import Blocker
from taskstate.transitions.transition import DeferredTransition, RawTransition
from taskstate.utils.sync import Deadline, Latch
from taskstate.writer.buffer import Normalize
from taskstate.writer.cycle import FlushCycle
from taskstate.writer.outage_log import MIGRATE
from taskstate.writer.stats import Observer, Stats, no_observer
from taskstate.writer.thread import BackgroundThread

logger = logging.getLogger(__name__)


class Writer:
    """Writes transitions in a background thread, and announces the rows that have changed.

    Constructing a writer has no effect.  Its first push starts the thread.

    Parameters:
      options(Options): The settings in force.
      normalize(Callable): Normalizes transitions; see ``Buffer``.
      open_store(Callable): Returns a store for the calling thread.
      announce(Callable): Called with each change after its commit.
      register(Callable): Called with the writer before it writes, so that the process includes it
        in its statistics, stops it at exit, and prepares it for forks.
      make_observer(Callable): Returns an observer of the statistics, for metrics.  A forked child
        gets a new one.
      clock(Callable): Returns monotonic seconds.
    """

    def __init__(
        self,
        *,
        options: Options | Config,
        normalize: Normalize,
        open_store: Callable[[], Store],
        announce: Callable[[Change], None],
        register: Callable[[Writer], None],
        make_observer: Callable[[], Observer] = lambda: no_observer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._normalize = normalize
        self._open_store = open_store
        self._announce = announce
        self._register = register
        self._make_observer = make_observer
        self._clock = clock
        self._reset()

    def _reset(self) -> None:
        self._cycle = FlushCycle(
            options=self._options,
            normalize=self._normalize,
            open_store=self._open_store,
            announce=self._announce,
            observe=self._make_observer(),
            clock=self._clock,
        )
        self._buffer = self._cycle.buffer
        self.queue = self._buffer.queue
        self.thread = BackgroundThread(
            self._cycle, register=lambda: self._register(self), clock=self._clock
        )
        # The value of ``complete_flushes`` when a thread last used up the whole shutdown timeout.
        self._complete_flushes_at_timeout: int | None = None

    # For any thread.

    def push(self, transition: RawTransition) -> None:
        """Add a transition.  This is one append; it never waits, and never uses the database."""
        self.queue.push(transition)
        if self.thread.is_idle:
            self.thread.wake()

    def push_deferred(self, deferred: DeferredTransition) -> None:
        """Add an object that makes a transition later, if it still exists then."""
        self.queue.push_deferred(deferred)
        if self.thread.is_idle:
            self.thread.wake()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything pushed before this call is committed, or was rejected as bad data
        (see ``Stats.rejected``).

        In the writer's thread, that is in a receiver of ``task_changed``, this call writes it
        itself, and tries once.  If the receiver has begun a transaction, nothing is written, since
        that would have to end first.

        Parameters:
          timeout(float): How many seconds to wait; None waits as long as it takes.

        Returns:
          bool: False if not everything was committed or rejected in time.  The rest stays pending.
            If waiting can't help, because the table is missing or a test forbids access to the
            database, it returns after one try.
        """
        if self.thread.is_current():
            return not self._cycle.flusher.is_in_transaction() and self._cycle.flush()
        # The buffer first: what has left it is committed when no batch is being written.
        if not self._buffer and not self.thread.may_be_writing:
            return True
        request = self._cycle.requests.add()
        if self.thread.wait(request.latch, Deadline(timeout).left):
            return not request.has_failed
        self._cycle.requests.discard(request)
        return False

    def push_and_wait(self, transition: RawTransition, time_left: Callable[[], float]) -> bool:
        """Add a transition, and wait until its pending task is resolved.

        Normally it is committed then.  But a greater one may have been committed in its place, or
        it may have been cleared or rejected.  The thread writes it at once, together with the
        transitions that other threads wait for.

        Parameters:
          time_left(Callable): Returns how many seconds are left to wait.

        Returns:
          bool: False if no time is left, because the process is about to end.  Then it stays
            pending.
        """
        if self.thread.is_current():
            # A receiver of ``task_changed`` runs a worker.  Only this thread can write meanwhile.
            self.push(transition)
            return self.flush()
        latch = Latch()
        self._buffer.push_awaited(transition, latch)
        if self.thread.wait(latch, time_left):
            return True
        self._log_shutdown_timeout(self._options.shutdown_timeout)
        return False

    def stop(self, timeout: float | None = None) -> bool:
        """Flush, and then end the thread.  It may be called again, and a later push starts a new
        thread.

        Parameters:
          timeout(float): How many seconds this may take.  None stands for ``shutdown_timeout``, or
            for 0 if a thread has waited that long without success: at a shutdown, the threads of a
            worker wait first, then the worker stops its writer, and then the process does.

        Returns:
          bool: Whether everything was committed, or was rejected as bad data.  If not, the thread
            continues to try until the process ends.
        """
        if timeout is None:
            timeout = 0 if self._shutdown_timed_out else self._options.shutdown_timeout
        deadline = Deadline(timeout)
        if not self.flush(timeout):
            self._log_shutdown_timeout(timeout)
            return False
        self.thread.end(deadline)
        return True

    @property
    def _shutdown_timed_out(self) -> bool:
        """Whether a thread has waited for the whole shutdown timeout without success, and not
        everything was written or rejected since."""
        return self._complete_flushes_at_timeout == self._cycle.complete_flushes

    def _log_shutdown_timeout(self, seconds: float) -> None:
        """Log that states could not be written in time, unless that was logged before."""
        if self._shutdown_timed_out:
            return
        stats = self.stats()
        blocker = self._cycle.blocker
        if blocker is Blocker.FORBIDDEN:
            logger.debug("A test forbids access to the database; %d tasks wait.", stats.pending)
            return
        self._complete_flushes_at_timeout = self._cycle.complete_flushes
        is_missing = blocker is Blocker.MISSING
        logger.error(
            "The states of %d tasks could not be written%s. They are lost if this process ends "
            "now, except those whose messages wait to be acknowledged "
            "(TASKSTATE['FLUSH_BEFORE_ACK']): the broker delivers these again. Last error: %s. %s",
            stats.pending,
            "" if is_missing else f" within {seconds:.1f} seconds",
            stats.last_error,
            MIGRATE
            if is_missing
            else "Check that the database answers, or raise TASKSTATE['SHUTDOWN_TIMEOUT'].",
        )

    def stats(self) -> Stats:
        """Return what the writer has done so far."""
        return self._cycle.stats()

    # Forks.

    def before_fork(self, seconds: float) -> bool:
        """Prepare for a fork; see ``BackgroundThread.before_fork``."""
        return self.thread.before_fork(seconds)

    def after_fork_in_parent(self) -> None:
        """Let the thread continue after a fork."""
        self.thread.after_fork_in_parent()

    def after_fork_in_child(self) -> Store | None:
        """Start again without pending tasks: those from before the fork belong to the parent.

        Returns:
          Store: The store of the parent.  The child must keep it and not use it: if it were
            deleted, the parent's connections would be closed.
        """
        store = self._cycle.flusher.abandon()
        self._buffer.queue.notify_dropped()
        self._reset()
        return store
