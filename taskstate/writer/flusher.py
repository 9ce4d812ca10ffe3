"""One flush: commits a batch, and finds the rows in it that the database rejects."""

from __future__ import annotations

import logging
import time
from typing import Callable, Sequence

from taskstate.stores import BadDataError, Change, Store, TimeLimitError, Written
from taskstate.stores.errors import log_level, summarize
from taskstate.transitions import sanitize
from taskstate.transitions.pending import PendingTask
from taskstate.transitions.transition import Transition
from taskstate.utils.log_text import for_log
from taskstate.utils.warn_once import ActorWarnings
from taskstate.writer.stats import StatsRecorder

logger = logging.getLogger(__name__)

#: How many rejected rows of a batch are logged one by one.
REJECTIONS_EACH = 10
#: The others are logged together: this many per record.
REJECTIONS_SHARED = 50

#: The most rows of a batch that may exceed the database's time limit.  One more is an outage.
MAX_SLOW_ROWS = 3


class FlushResult:
    """What became of a batch."""

    def __init__(self) -> None:
        #: The rows that were changed, in the order of their commits.
        self.changes: list[Change] = []
        #: How long each commit took, in seconds.
        self.seconds: list[float] = []
        #: The rows that the database rejected as bad data.
        self.rejected: list[PendingTask] = []
        #: The rows that exceed the database's time limit, each with the error.
        self.slow: list[tuple[PendingTask, TimeLimitError]] = []
        #: The rows that must be tried again.
        self.unwritten: list[PendingTask] = []
        #: The error that ended the flush, if there was one.
        self.error: BaseException | None = None


class Flusher:
    """Commits batches through a store, in the thread that writes.

    Parameters:
      open_store(Callable): Returns a store for the calling thread.
      stats(StatsRecorder): Counts what was done.
      clock(Callable): Returns monotonic seconds.
      owns_connections(bool): Whether this thread uses its database connections for nothing else,
        so that stale ones may be closed.
      warnings(ActorWarnings): Keeps the warnings to one per actor, where a flusher lives for one
        batch only.
    """

    def __init__(
        self,
        *,
        open_store: Callable[[], Store],
        stats: StatsRecorder,
        clock: Callable[[], float] = time.monotonic,
        owns_connections: bool = True,
        warnings: ActorWarnings | None = None,
    ) -> None:
        self._open_store = open_store
        self._stats = stats
        self._clock = clock
        self._owns_connections = owns_connections
        self._store: Store | None = None
        self._warnings = ActorWarnings(logger) if warnings is None else warnings
        #: How many pending tasks are being written.
        self.in_flight = 0

    def flush(self, batch: Sequence[PendingTask]) -> FlushResult:
        """Commit a batch, and return the result for each of its rows.

        If the database rejects the batch as bad data, or takes too long, the batch is halved until
        the row is found.  Any other error ends the flush.
        """
        result = FlushResult()
        # The parts that are neither committed nor rejected.  The last one is the next.
        parts = [batch]
        self.in_flight = len(batch)
        try:
            while parts:
                self._commit_last(parts, result)
        except BaseException as error:  # noqa: BLE001 - the caller handles it
            result.error = error
            # This part may have been committed, and the reply lost.
            for pending in parts[-1] if parts else ():
                pending.maybe_committed = True
        # Slow rows come last, so that they don't delay the others.
        result.unwritten = [pending for part in reversed(parts) for pending in part]
        result.unwritten += [pending for pending, _ in result.slow]
        self.in_flight = 0
        _log_rejections(result.rejected, out_of=len(batch))
        return result

    def _commit_last(self, parts: list[Sequence[PendingTask]], result: FlushResult) -> None:
        """Commit the last part, and remove it.  If it fails, replace it by its halves, or handle
        its only row."""
        part = parts[-1]
        started = self._clock()
        try:
            written = self._ready_store().write(part)
        except (BadDataError, TimeLimitError) as error:
            if len(part) > 1:
                parts[-1:] = _halves(part)
                return
            self._handle_failed_row(part[0], error, result)
        else:
            # Recorded before it is removed: if that is interrupted, the part is written again.
            self._record_commit(part, written, started, result)
        parts.pop()

    def _ready_store(self) -> Store:
        store = self._store = self._store or self._open_store()
        if self._owns_connections:
            store.close_stale_connections()
        return store

    def _record_commit(
        self,
        part: Sequence[PendingTask],
        written: Written,
        started: float,
        result: FlushResult,
    ) -> None:
        result.changes += written.changes
        for pending in part:
            pending.resolve()
        self.in_flight -= len(part)
        seconds = self._clock() - started
        result.seconds.append(seconds)
        self._stats.add(
            flushes=1,
            rows_written=written.rows,
            rows_unchanged=written.unchanged,
            last_flush_seconds=seconds,
        )

    def _handle_failed_row(
        self, pending: PendingTask, error: BadDataError | TimeLimitError, result: FlushResult
    ) -> None:
        """Handle a single row that failed.  If it is bad data, write it without its free texts, or
        reject it.  If it takes too long, keep it, to try it again later."""
        if isinstance(error, BadDataError):
            try:
                self._write_without_texts(pending, error, result)
            except BadDataError:
                self._reject(pending, error, result)
            except TimeLimitError as too_slow:
                self._keep_slow_row(pending, too_slow, result)
        if isinstance(error, TimeLimitError):
            self._keep_slow_row(pending, error, result)

    def _keep_slow_row(
        self, pending: PendingTask, error: TimeLimitError, result: FlushResult
    ) -> None:
        """Keep a row that takes too long, to try it again later.

        Raises:
          Exception: If there are too many of them.  That is an outage.
        """
        if len(result.slow) == MAX_SLOW_ROWS:
            raise error.__cause__ or error
        pending.maybe_committed = True
        result.slow.append((pending, error))

    def _write_without_texts(
        self, pending: PendingTask, rejection: BadDataError, result: FlushResult
    ) -> None:
        """Write a row that was rejected without its free texts, since its status matters most.

        Raises:
          BadDataError: If the row is rejected without them as well.
          TimeLimitError: If the database takes too long.
        """
        whole = pending.latest
        is_written = False
        try:
            for less, names in sanitize.without_texts(whole):
                pending.latest = less  # It is announced as it was written.
                started = self._clock()
                try:
                    written = self._ready_store().write([pending])
                except BadDataError:
                    continue
                is_written = True
                self._record_commit([pending], written, started, result)
                self._warn_of_lost_texts(less, names, rejection)
                return
        finally:
            if not is_written:
                pending.latest = whole
        raise rejection

    def _warn_of_lost_texts(
        self, written: Transition, names: Sequence[str], rejection: BadDataError
    ) -> None:
        self._stats.add(last_error=summarize(rejection))
        self._warnings.warn(
            written.fields.actor_name,
            "A task of actor %s is written without its "
            + " and ".join(names)
            + ": the database rejects task %s (%s) with it (%s). If the character set of the table "
            "can't store it, convert the table to utf8mb4. Later tasks of this actor are not "
            "logged.",
            written.message_id,
            written.status.value,
            rejection,
        )

    def _reject(self, pending: PendingTask, error: BadDataError, result: FlushResult) -> None:
        """Give up a row.  It is logged here, or later together with others."""
        pending.resolve()
        self.in_flight -= 1
        result.rejected.append(pending)
        self._stats.add(rejected=1, last_error=summarize(error))
        if len(result.rejected) <= REJECTIONS_EACH:
            _log_rejection(pending.latest, error)

    def is_in_transaction(self) -> bool:
        """Return whether a receiver that calls this has begun a transaction."""
        return self._store is not None and self._store.is_in_transaction()

    def close_stale_connections(self) -> None:
        """Close connections that are broken, or older than ``CONN_MAX_AGE``."""
        if self._store is not None:
            _quietly(self._store.close_stale_connections)

    def close_idle_connections(self) -> None:
        """Close connections that should not stay open while the writer is idle."""
        if self._store is not None:
            _quietly(self._store.close_idle_connections)

    def close(self) -> None:
        """Close the store.  Call it in the thread that has used the store."""
        store = self.abandon()
        if store is not None:
            _quietly(store.close)

    def abandon(self) -> Store | None:
        """Return the store, and don't use it any more."""
        store, self._store = self._store, None
        return store


def _halves(part: Sequence[PendingTask]) -> list[Sequence[PendingTask]]:
    """Return the halves of a part.  The first one comes last, since the last part is the next."""
    middle = len(part) // 2
    return [part[middle:], part[:middle]]


def _log_rejection(transition: Transition, error: BadDataError) -> None:
    logger.error(
        "The state of task %s (%s, actor %s) is not written, because the database rejects it as "
        "bad data: %s",
        transition.message_id,
        transition.status.value,
        for_log(transition.fields.actor_name),
        error,
    )


def _log_rejections(rejected: Sequence[PendingTask], out_of: int) -> None:
    """Log the rejected rows of a batch that were not logged yet."""
    for start in range(REJECTIONS_EACH, len(rejected), REJECTIONS_SHARED):
        some = rejected[start : start + REJECTIONS_SHARED]
        logger.error(
            "The states of %d more tasks of the same batch are not written, because the database "
            "rejects them as bad data: %s",
            len(some),
            ", ".join(
                f"{pending.latest.message_id} ({pending.latest.status.value}, actor "
                f"{for_log(pending.latest.fields.actor_name)})"
                for pending in some
            ),
        )
    if len(rejected) == out_of > 1:
        logger.error(
            "The database rejected all %d states of a batch as bad data. The cause is probably not "
            "the data, but a bug or a wrong table. See the previous records.",
            out_of,
        )


def _quietly(step: Callable[[], None]) -> None:
    """Call a function, and only log it if that fails."""
    try:
        step()
    except Exception as error:
        text = "The writer could not close a database connection."
        logger.log(log_level(error), text, exc_info=True)
