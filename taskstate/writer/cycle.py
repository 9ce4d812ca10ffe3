"""One step of the writer: decide what to flush, flush it, and handle the result.

This module uses neither threads nor models.  It gets the store, the clock and the settings as
arguments.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import time
from typing import Callable

from taskstate.conf import Config, Options
from taskstate.stores import Change, Store, TimeLimitError
from taskstate.stores.errors import Blocker, find_blocker, summarize
from taskstate.transitions.pending import PendingTask
from taskstate.utils.warn_once import ActorWarnings
from taskstate.writer.announcer import Announcer
from taskstate.writer.buffer import Buffer, Normalize
from taskstate.writer.flush_requests import FlushRequests
from taskstate.writer.flusher import Flusher, FlushResult
from taskstate.writer.outage_log import OutageLog
from taskstate.writer.pacing import Backoff, TokenBucket, longest_backoff
from taskstate.writer.stats import Observer, Stats, StatsRecorder, no_observer

logger = logging.getLogger(__name__)


class FlushCycle:
    """Decides when pending tasks are flushed, and flushes them.

    Only the thread that holds the writer's lock may call its methods.  Other threads may push to
    ``buffer``, add to ``requests``, and read ``stats``, ``has_work``, ``blocker`` and
    ``complete_flushes``.

    Parameters (the others are those of ``Writer``):
      observe(Callable): Called after each step with the statistics, for metrics.  It never raises.
      randomness(Callable): Returns a float from 0 to 1, for the jitter of retries.
    """

    def __init__(
        self,
        *,
        options: Options | Config,
        normalize: Normalize,
        open_store: Callable[[], Store],
        announce: Callable[[Change], None],
        observe: Observer = no_observer,
        clock: Callable[[], float] = time.monotonic,
        randomness: Callable[[], float] = random.random,
    ) -> None:
        self._options = options
        self._observe = observe
        self._clock = clock
        self.buffer = Buffer(Config.max_pending, normalize)
        self.requests = FlushRequests()
        self.announcer = Announcer(announce)
        self._recorder = StatsRecorder()
        self.flusher = Flusher(open_store=open_store, stats=self._recorder, clock=clock)
        self._outage_log = OutageLog(self.buffer)
        self.backoff = Backoff(randomness)
        self._bucket = TokenBucket()
        self._warnings = ActorWarnings(logger)
        #: How many times everything that was pending has been written or rejected.
        self.complete_flushes = 0
        #: Why waiting won't end the current failure; None if it may, or if nothing has failed.
        self.blocker: Blocker | None = None
        # When the oldest transition of the batch happened that is being written.
        self._oldest_in_flight: float | None = None

    @property
    def has_work(self) -> bool:
        """Whether anything is pending, or a thread waits for a flush."""
        return bool(self.buffer or self.requests)

    def step(self, *, is_ending: bool = False) -> float | None:
        """Coalesce what was pushed, and flush if that is due.

        Parameters:
          is_ending(bool): Whether the thread is about to end.  Then everything is due, except
            during the pause that follows a failure.

        Returns:
          float: Seconds until the next step is due, or None if nothing is pending.
        """
        options = self._options
        self.buffer.set_limits(
            options.max_pending, options.max_pending_bytes, options.max_batch_size
        )
        self.backoff.longest = longest_backoff(options.flush_interval)
        self._coalesce()
        if self.requests:
            self._handle_flush_requests()
        if not self.buffer.pending_count:
            return None
        now = self._clock()
        pause = self.backoff.delay(now)
        if pause > 0:
            return pause
        if is_ending:
            self.flush()
        elif self._flush_awaited() and self.buffer.pending_count:
            # Only the rest takes a token: what threads wait for is never limited in rate.
            if self._bucket.take(now, options.flush_interval):
                self.flush()
            else:
                self._flush_full_batches()
        return self._delay()

    def _delay(self) -> float | None:
        if not self.buffer.pending_count:
            return None
        now = self._clock()
        return max(self.backoff.delay(now), self._bucket.delay(now, self._options.flush_interval))

    def _coalesce(self) -> None:
        coalesced = self.buffer.coalesce()
        if coalesced:
            self._recorder.add(transitions=coalesced)
            self._observe(self.stats, None)
        self._outage_log.check_drops()

    def _handle_flush_requests(self) -> None:
        """Write everything for the threads that wait.

        A new request is handled at once, even during the pause after a failure.  If that fails, it
        waits for the end of the pause, like everything else.
        """
        requests = self.requests.all()
        is_pausing = self.backoff.delay(self._clock()) > 0
        if is_pausing and all(request.was_tried for request in requests):
            return
        for request in requests:
            request.was_tried = True
        is_flushed = self.flush()
        if is_flushed or self.blocker is not None:
            self.requests.finish(requests, has_failed=not is_flushed)

    def flush(self) -> bool:
        """Write what is pending, in batches.  Return whether all of it was written or rejected."""
        self._coalesce()
        is_flushed = self._write_batches(self.buffer.pending_count)
        self.complete_flushes += is_flushed
        return is_flushed

    def _flush_awaited(self) -> bool:
        """Write only what threads wait for.  The rest waits until it is due: it would make them
        wait longer, and usually a task that is running now is done by then."""
        return self._write_batches(self.buffer.awaited_count, only_awaited=True)

    def _flush_full_batches(self) -> bool:
        """Write what fills batches, and leave the rest."""
        size = self.buffer.full_batch
        return self._write_batches(self.buffer.pending_count // size * size)

    def _write_batches(self, rows: int, *, only_awaited: bool = False) -> bool:
        """Write this many rows.  Return whether all of them were written or rejected."""
        while rows > 0:
            batch = self.buffer.pop_batch(
                min(rows, self._options.max_batch_size), only_awaited=only_awaited
            )
            if not batch:  # A receiver has flushed the rest.
                break
            rows -= len(batch)
            self._oldest_in_flight = batch[0].first_happened_at
            if not self._finish(self.flusher.flush(batch)):
                return False
        return True

    def _finish(self, result: FlushResult) -> bool:
        """Requeue what could not be written, and announce what was.  Return whether all of the
        batch was written or rejected."""
        self.announcer.add(result.changes)
        if result.unwritten:
            self.buffer.requeue(result.unwritten)
            self._outage_log.check_drops()
        self._oldest_in_flight = None
        self._handle_result(result)
        for seconds in result.seconds:
            self._observe(self.stats, seconds)
        self._observe(self.stats, None)
        self.announcer.announce_all()
        self.flusher.close_stale_connections()
        return not result.unwritten

    def _handle_result(self, result: FlushResult) -> None:
        if result.seconds or result.rejected:
            self.backoff.succeeded()
            self.blocker = None
            self._outage_log.flush_succeeded()
        for pending, too_slow in result.slow:
            self._handle_slow_row(pending, too_slow)
        if isinstance(result.error, Exception):
            self.handle_failure(result.error)
        elif result.error is not None:
            raise result.error

    def _handle_slow_row(self, pending: PendingTask, error: TimeLimitError) -> None:
        """Pause before a row that exceeds the time limit is tried again.  What delays it, usually a
        lock, may be over then."""
        self.backoff.failed(self._clock())
        self._recorder.add(failed_flushes=1, last_error=summarize(error))
        self._warnings.warn(
            pending.latest.fields.actor_name,
            "The state of a task of actor %s takes the database longer than its time limit: task "
            "%s (%s). It is kept and tried again, and others are written. Check which transaction "
            "locks that row. Later tasks of this actor are not logged.",
            pending.latest.message_id,
            error,
        )

    def handle_failure(self, error: Exception) -> None:
        """Pause before the next try, and log an outage when it begins."""
        self.backoff.failed(self._clock())
        self._recorder.add(failed_flushes=1, last_error=summarize(error))
        self.blocker = find_blocker(error)
        self._outage_log.flush_failed(error, self.blocker)

    def stats(self) -> Stats:
        """Return what the writer has done so far."""
        return dataclasses.replace(
            self._recorder.totals,
            pending=len(self.buffer) + self.flusher.in_flight,
            dropped=self.buffer.dropped,
            oldest_pending_seconds=self._oldest_pending(),
            pending_bytes=self.buffer.memory,
        )

    def _oldest_pending(self) -> float:
        # The batch that is being written is read first: a batch that fails returns to the buffer.
        moments = [self._oldest_in_flight, self.buffer.oldest_happened_at]
        oldest = min((moment for moment in moments if moment is not None), default=None)
        return 0.0 if oldest is None else max(0.0, self._clock() - oldest)
