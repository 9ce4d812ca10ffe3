"""One flush: pending batches are committed, bad rows found, and what changed is told.

A ``Flusher`` owns what is pending, its store and its statistics.  It decides nothing about
time but how long to pause after a failure; when to flush is the writer's business.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import time
from collections import deque
from typing import Callable, Optional, Sequence

from django.core.exceptions import SynchronousOnlyOperation

from .buffer import Buffer, Entry
from .conf import Config
from .pacing import Backoff
from .stores import BadDataError, Change, Store, Written
from .stores.errors import describe, exc_info
from .transitions import Pushed, Transition

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Stats:
    """What a process's writers have done so far; see ``taskstate.stats``."""

    #: Messages that wait to be written.
    pending: int = 0
    #: Transitions that were taken from the queue.
    transitions: int = 0
    #: Batches that were committed.
    flushes: int = 0
    #: Rows that were inserted or changed; on MariaDB, all that were sent while nobody listens.
    rows_written: int = 0
    #: Rows that already held the same fact or a newer one, or were cleared meanwhile.
    rows_unchanged: int = 0
    #: Facts given up because more than ``MAX_PENDING`` messages were waiting.
    dropped: int = 0
    #: Rows that the database refused as bad data.
    refused: int = 0
    #: Flushes that failed and were, or will be, tried again.
    failures: int = 0
    #: The last failure as text, or None.
    last_error: str | None = None
    #: How long the last flush took, in seconds, or None.
    last_flush_seconds: float | None = None
    #: How long ago the oldest transition that waits has happened, in seconds; 0 if none waits.
    oldest_pending_seconds: float = 0.0

    def __add__(self, later: Stats) -> Stats:
        """Return the sums of both; what happened last is ``later``'s, if it knows."""
        took = later.last_flush_seconds
        return Stats(
            pending=self.pending + later.pending,
            transitions=self.transitions + later.transitions,
            flushes=self.flushes + later.flushes,
            rows_written=self.rows_written + later.rows_written,
            rows_unchanged=self.rows_unchanged + later.rows_unchanged,
            dropped=self.dropped + later.dropped,
            refused=self.refused + later.refused,
            failures=self.failures + later.failures,
            last_error=later.last_error or self.last_error,
            last_flush_seconds=self.last_flush_seconds if took is None else took,
            oldest_pending_seconds=max(self.oldest_pending_seconds, later.oldest_pending_seconds),
        )


#: Is told of what a flusher did: by its ``stats``, and the seconds of a flush that was committed.
Observe = Callable[[Callable[[], Stats], Optional[float]], None]


def _nobody(stats: Callable[[], Stats], seconds: float | None) -> None:
    """Observe nothing."""


class Flusher:
    """Writes what is pending.  But for the buffer's pushes, ``write_now`` and ``stats``, only the
    thread that has the right to write may call it.

    Parameters:
      fit(Callable): Makes a transition that fits of what was pushed, or None if there is nothing
        to write.
      open_store(Callable): Returns the store; called in the thread that writes first.
      announce(Callable): Takes each change of a flush, after its commit.
      observe(Callable): Is told of each step, for metrics; it raises nothing.
      clock(Callable): Returns monotonic seconds.
      randomness(Callable): Returns a float from 0 to 1, to jitter retries.
    """

    def __init__(
        self,
        *,
        fit: Callable[[Pushed], Transition | None],
        open_store: Callable[[], Store],
        announce: Callable[[Change], None],
        observe: Observe = _nobody,
        clock: Callable[[], float] = time.monotonic,
        randomness: Callable[[], float] = random.random,
    ) -> None:
        self._open_store = open_store
        self._announce = announce
        self._observe = observe
        self._clock = clock
        self._fit = fit
        self.buffer = Buffer(Config.max_pending, fit)
        self.backoff = Backoff(randomness)
        self._store: Store | None = None
        self._stats = Stats()
        self._in_flight = 0
        # When the oldest fact of the batch that is being written happened.
        self._oldest_in_flight: float | None = None
        # What is committed and not announced yet.
        self._news: deque[Change] = deque()
        self._announcing = False
        self._is_outage = False
        self._is_dropping = False
        # How many facts were dropped until the last time that this was over.
        self._dropped_before = 0

    def absorb(self) -> None:
        """Coalesce what was pushed, and tell of what had to be dropped."""
        absorbed = self.buffer.absorb()
        if absorbed:
            self._stats += Stats(transitions=absorbed)
            self._observe(self.stats, None)
        self._report_drops()

    def everything(self, max_batch_size: int) -> bool:
        """Write all that is pending by now, batch by batch; return whether all of it went."""
        self.absorb()
        remaining = self.buffer.messages
        while remaining > 0:
            batch = self.buffer.take(max_batch_size)
            if not batch:  # A receiver has flushed the rest.
                break
            remaining -= len(batch)
            if not self._write(batch):
                return False
        return True

    def full_batches(self, max_batch_size: int) -> None:
        """Write as many full batches as are pending, and leave the rest."""
        while self.buffer.messages >= max_batch_size:
            if not self._write(self.buffer.take(max_batch_size)):
                return

    def _write(self, batch: Sequence[Entry]) -> bool:
        """Commit a batch, announce what it changed, and tidy up."""
        self._oldest_in_flight = batch[0].since
        try:
            written = self._commit_all(batch)
        finally:
            self._oldest_in_flight = None
        self._observe(self.stats, None)
        self._announce_news()
        if self._store is not None:
            _quietly(self._store.tidy)
        return written

    def _commit_all(self, batch: Sequence[Entry]) -> bool:
        """Commit a batch.  If the database calls a value of it bad, halve it until the row is
        found; anything else that goes wrong puts back what isn't committed."""
        # What is neither committed nor refused; the next part comes last.
        parts = [batch]
        try:
            while parts:
                try:
                    news = self._commit(parts[-1])
                except BadDataError as error:
                    part = parts.pop()
                    if len(part) == 1:
                        self._refuse(part[0], error)
                    else:
                        middle = len(part) // 2
                        parts += [part[middle:], part[:middle]]
                else:
                    parts.pop()
                    self._news += news
        except BaseException as error:
            # The last one may have been committed, its answer lost.
            for entry in parts[-1] if parts else ():
                entry.uncertain = True
            self.buffer.put_back(entry for part in reversed(parts) for entry in part)
            self._report_drops()
            if not isinstance(error, Exception):
                raise
            self.failed(error)
            return False
        return True

    def _announce_news(self) -> None:
        """Tell of every change that is committed.  A receiver may flush in turn: what that
        commits is told by the call that is already telling."""
        if self._announcing:
            return
        self._announcing = True
        try:
            while self._news:
                change = self._news.popleft()
                try:
                    self._announce(change)
                except BaseException:
                    # SystemExit or asyncio's CancelledError, say: it ends no thread of ours.
                    logger.exception(
                        "A receiver of task_changed failed for task %s.",
                        change.entry.winner.message_id,
                    )
        finally:
            self._announcing = False

    def _commit(self, part: Sequence[Entry]) -> Sequence[Change]:
        started = self._clock()
        self._in_flight += len(part)
        try:
            store = self._store = self._store or self._open_store()
            store.tidy()
            written = store.write(part)
        finally:
            self._in_flight -= len(part)
        for entry in part:
            entry.settle()
        self._succeeded()
        self._count_flush(written, started)
        return written.changes

    def _refuse(self, entry: Entry, error: BadDataError) -> None:
        entry.settle()
        self._succeeded()
        self._stats += Stats(refused=1, last_error=describe(error))
        logger.error(
            "The database refuses the state of task %s (%s, actor %s) as bad data, so it is not "
            "written; all others are. It says: %s",
            entry.winner.message_id,
            entry.winner.status.value,
            entry.winner.fields.actor_name,
            error,
        )

    def failed(self, error: Exception) -> None:
        """Note a failure: pause before the next try, and tell of the outage if it begins."""
        self.backoff.failed(self._clock())
        self._stats += Stats(failures=1, last_error=describe(error))
        if not self._is_outage:
            self._is_outage = True
            logger.error(
                "Task states can't be written: %s. Up to %s messages are kept, and written later. "
                "Check that the database answers, and that it is migrated (manage.py migrate "
                "taskstate, with --database if DRAMATIQ_TASKS_DATABASE is set). This is logged "
                "once per outage.",
                describe(error),
                f"{self.buffer.max_pending:,}",
                exc_info=exc_info(error),
            )

    def _succeeded(self) -> None:
        self.backoff.succeeded()
        if self._is_outage:
            self._is_outage = False
            logger.warning(
                "Task states are written again; %s messages still wait.", f"{len(self.buffer):,}"
            )
        if self._is_dropping and len(self.buffer) <= self.buffer.max_pending // 2:
            self._is_dropping = False
            dropped = self.buffer.dropped - self._dropped_before
            self._dropped_before = self.buffer.dropped
            logger.warning(
                "There is room again for task states; %s were dropped meanwhile.", f"{dropped:,}"
            )

    def _report_drops(self) -> None:
        """Tell that states are dropped: when it begins, and no more until it is over."""
        if self._is_dropping or self.buffer.dropped == self._dropped_before:
            return
        self._is_dropping = True
        logger.error(
            "More than %s messages wait to be written, so the oldest states are dropped. The cure "
            "is a database that answers, or a higher TASKSTATE['MAX_PENDING']. This is logged "
            "once, and how many there were when it is over.",
            f"{self.buffer.max_pending:,}",
        )

    def _count_flush(self, written: Written, started: float) -> None:
        seconds = self._clock() - started
        self._stats += Stats(
            flushes=1,
            rows_written=written.rows,
            rows_unchanged=written.unchanged,
            last_flush_seconds=seconds,
        )
        self._observe(self.stats, seconds)

    def is_in_transaction(self) -> bool:
        """Return whether this thread, which writes, is inside a transaction of a receiver."""
        return self._store is not None and self._store.is_in_transaction()

    def rest(self) -> None:
        """Keep no connection that should not outlive a quiet second."""
        if self._store is not None:
            _quietly(self._store.rest)

    def close(self) -> None:
        """Close the store, in the thread that wrote through it."""
        store, self._store = self._store, None
        if store is not None:
            _quietly(store.close)

    def abandon(self) -> Store | None:
        """Return the store, which is not to be used any more."""
        store, self._store = self._store, None
        return store

    def stats(self) -> Stats:
        """Return what this writer has done so far."""
        return dataclasses.replace(
            self._stats,
            pending=len(self.buffer) + self._in_flight,
            dropped=self.buffer.dropped,
            oldest_pending_seconds=self._oldest_pending(),
        )

    def _oldest_pending(self) -> float:
        # What is being written first: on its way from there it is back in the buffer.
        moments = [self._oldest_in_flight, self.buffer.oldest]
        oldest = min((moment for moment in moments if moment is not None), default=None)
        return 0.0 if oldest is None else max(0.0, self._clock() - oldest)

    def write_now(self, pushed: Pushed) -> None:
        """Write one fact in the calling thread, on its own connection.  An error is logged and
        counted; it never reaches the caller."""
        transition = self._fit(pushed)
        if transition is None:
            return
        self._stats += Stats(transitions=1)
        started = self._clock()
        try:
            written = self._open_store().write([Entry(transition)])
        except Exception as error:
            if isinstance(error, SynchronousOnlyOperation) and not isinstance(pushed, Transition):
                # Django writes nothing in an event loop, where a coroutine tells of its progress.
                logger.debug("Progress was told in an event loop; the next state carries it.")
                return
            is_bad = isinstance(error, BadDataError)
            self._stats += Stats(refused=is_bad, failures=not is_bad, last_error=describe(error))
            logger.exception(
                "The state of task %s could not be written, and won't be tried again "
                "(TASKSTATE['SYNCHRONOUS'] is on).",
                transition.message_id,
                exc_info=exc_info(error),
            )
            return
        self._count_flush(written, started)
        for change in written.changes:
            self._announce(change)


def _quietly(step: Callable[[], None]) -> None:
    """Do what must end nothing if it fails."""
    try:
        step()
    except Exception:
        logger.exception("The writer could not close a database connection.")
