"""The background thread: when to flush, when to try again, when to stop.

One ``Writer`` serves one middleware.  ``push`` hands it a transition; its thread coalesces them
and commits them through a store.  It knows no Django model: the store, the announcer, the
clock and the settings are handed in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import random
import threading
import time
from collections import deque
from typing import Callable, Sequence

from .buffer import Buffer, Entry
from .conf import Config
from .pacing import Backoff, TokenBucket
from .stores import BadDataError, Change, Store, Written
from .threads import Deadline, Doorbell, Latch
from .transitions import Transition

logger = logging.getLogger("taskstate")

#: How much one statement may take, in bytes: a quarter of MariaDB's max_allowed_packet.
MAX_BATCH_BYTES = 4 * 1024 * 1024

#: How the thread is called in a debugger.
THREAD_NAME = "taskstate-writer"

#: While flushes are rate-limited nobody rings: the writer looks for a full batch this often.
NAP_SECONDS = 0.05
#: An idle writer is woken by the next push; this only bounds the wait.
IDLE_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Stats:
    """What a process's writers have done so far; see ``taskstate.stats``."""

    #: Messages that wait to be written.
    pending: int = 0
    #: Transitions that were taken from the queue.
    transitions: int = 0
    #: Batches that were committed.
    flushes: int = 0
    #: Rows that were inserted or changed.
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
        )


class _Ticket:
    """Somebody waits for everything pushed so far."""

    def __init__(self) -> None:
        self.latch = Latch()
        self.tried = False


class Writer:
    """Writes what is pushed, and makes known what changed.

    Constructing one is inert; the first push starts its thread.

    Parameters:
      open_store(Callable): Returns the store; called in the thread that writes first.
      announce(Callable): Takes each change of a flush, after its commit.
      config(Callable): Returns the settings in force.
      watch(Callable): Takes the writer each time its thread is about to start, so that somebody
        stops it at exit and tells it of forks.
      clock(Callable): Returns monotonic seconds.
      randomness(Callable): Returns a float from 0 to 1, to jitter retries.
    """

    def __init__(
        self,
        *,
        open_store: Callable[[], Store],
        announce: Callable[[Change], None],
        config: Callable[[], Config],
        watch: Callable[[Writer], None],
        clock: Callable[[], float] = time.monotonic,
        randomness: Callable[[], float] = random.random,
    ) -> None:
        self._open_store = open_store
        self._announce = announce
        self._config = config
        self._watch = watch
        self._clock = clock
        self._randomness = randomness
        self._store: Store | None = None
        self._reset()

    def _reset(self) -> None:
        self._buffer = Buffer(Config.max_pending)
        self._bucket = TokenBucket()
        self._backoff = Backoff(self._randomness)
        self._stats = Stats()
        self._in_flight = 0
        # What is committed and not announced yet.
        self._news: deque[Change] = deque()
        self._announcing = False
        self._outage = False
        self._gave_up = False
        self._report_drops_at = 1
        self._tickets: deque[_Ticket] = deque()
        self._doorbell = Doorbell()
        # Whoever holds it may write: the thread, or a caller when no thread can be started.
        self._right_to_write = threading.Lock()
        # Held during a turn of the thread, database and receivers included; a fork waits for it.
        # It knows its owner, so that an exception injected into a waiting fork can't orphan it.
        self._turn = threading.RLock()
        self._owner: int | None = None
        self._thread: threading.Thread | None = None
        self._idle = False
        # The thread that is asked to end; a later one isn't meant by it.
        self._ending: threading.Thread | None = None

    # What any thread may call.

    def push(self, transition: Transition) -> None:
        """Hand over a fact.  One append; it never waits, and never touches the database,
        except where ``SYNCHRONOUS`` asks for just that."""
        if self._config().synchronous:
            self._write_now(transition)
            return
        self._buffer.push(transition)
        if self._idle:
            self._doorbell.ring()
        elif self._thread is None:
            self._start()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything pushed before this call is committed.

        From within the writer's own thread (a receiver of ``task_changed``) it is written
        right here, with one try, and not at all inside a transaction of the receiver's: that
        would have to end first.

        Parameters:
          timeout(float): Seconds to wait; None waits as long as it takes.

        Returns:
          bool: False if that wasn't achieved in time; what is pending stays so.
        """
        if self._owner == threading.get_ident():
            return not self._is_in_transaction() and self._flush_everything()
        # The buffer first: what left it is written once nobody writes any more.
        if not self._buffer and (self._idle or not self._right_to_write.locked()):
            return True
        ticket = _Ticket()
        self._tickets.append(ticket)
        deadline = Deadline(timeout)
        while True:
            # The thread may end while somebody waits: look after it now and then.
            limit = min(deadline.left(), IDLE_SECONDS)
            if self._thread is not None:
                self._doorbell.ring()
            elif not self._start():
                self._write_here(limit)
            if ticket.latch.wait(limit):
                return True
            if limit == 0:
                self._forget(ticket)
                return False

    def stop(self, timeout: float | None = None) -> bool:
        """Flush, then end the thread.  Idempotent, and not final: a later push starts a thread
        again.

        Parameters:
          timeout(float): Seconds that it may take; None takes ``shutdown_timeout``, and no time
            at all if an earlier ``stop`` has waited that long in vain: a worker stops its writer
            when it shuts down, and then its process does.

        Returns:
          bool: Whether everything was written.  If not, the thread goes on trying for as
            long as the process lives.
        """
        gave_up = self._gave_up
        if timeout is None:
            timeout = 0 if gave_up else self._config().shutdown_timeout
        deadline = Deadline(timeout)
        if not self.flush(timeout):
            self._gave_up = True
            if gave_up:
                return False
            logger.error(
                "The states of %d tasks could not be written within %.1f seconds; they are lost "
                "if this process ends now. Last error: %s. The cure is a database that answers, "
                "or a longer TASKSTATE['SHUTDOWN_TIMEOUT'].",
                self.stats().pending,
                timeout,
                self._stats.last_error,
            )
            return False
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            self._ending = thread
            self._doorbell.ring()
            thread.join(deadline.left())
        return True

    def stats(self) -> Stats:
        """Return what this writer has done so far."""
        return dataclasses.replace(
            self._stats,
            pending=len(self._buffer) + self._in_flight,
            dropped=self._buffer.dropped,
        )

    def _write_now(self, transition: Transition) -> None:
        """Write one fact in the calling thread, on its own connection.  An error is logged and
        counted; it never reaches the caller."""
        self._watch(self)
        self._stats += Stats(transitions=1)
        started = self._clock()
        try:
            written = self._open_store().write([Entry(transition)])
        except Exception as error:
            is_bad = isinstance(error, BadDataError)
            self._stats += Stats(refused=is_bad, failures=not is_bad, last_error=_describe(error))
            logger.exception(
                "The state of task %s could not be written, and won't be tried again "
                "(TASKSTATE['SYNCHRONOUS'] is on).",
                transition.message_id,
            )
            return
        self._count_flush(written, started)
        for change in written.changes:
            self._announce(change)

    def hold_still(self, seconds: float) -> None:
        """Keep the thread between two turns while the process forks, if that can be had within
        ``seconds``: a child that is born while the thread is inside a database driver inherits
        its locks, locked for ever."""
        if self._owner != threading.get_ident():
            self._turn.acquire(timeout=seconds)

    def let_go(self) -> None:
        """Let the thread go on after a fork, in the parent."""
        if self._owner != threading.get_ident():
            with contextlib.suppress(RuntimeError):  # It couldn't be had in time.
                self._turn.release()

    def after_fork(self) -> Store | None:
        """Begin anew in a forked child: what was pending is still the parent's.

        Returns:
          Store: The parent's, which the child must keep alive and never touch: its connections
            are the parent's, and would be closed with it.
        """
        store, self._store = self._store, None
        self._reset()
        return store

    # The thread.

    def _start(self) -> bool:
        """Start the thread.  Several callers may do so at once; all but one will end again."""
        self._watch(self)
        thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # The interpreter is shutting down, or out of threads.
            return False
        return True

    def _run(self) -> None:
        if not self._right_to_write.acquire(blocking=False):
            return
        try:
            self._owner = threading.get_ident()
            self._thread = threading.current_thread()
            while not self._may_end():
                with self._turn:
                    pause = self._step_safely()
                self._sleep(pause)
        finally:
            with self._turn:
                self._close_store()
            self._thread = None
            self._owner = None
            self._right_to_write.release()
            # A push may have seen this thread and relied on it.
            if self._buffer or self._tickets:
                self._start()

    def _is_ending(self) -> bool:
        return self._ending is not None and self._ending is self._thread

    def _may_end(self) -> bool:
        return self._is_ending() and not self._buffer and not self._tickets

    def _sleep(self, seconds: float | None) -> None:
        if seconds is not None:
            self._doorbell.wait(min(seconds, NAP_SECONDS))
            return
        self._idle = True
        # Only now may a push rely on the bell: look once more for what came just before.
        if self._buffer.untouched and not self._tickets and not self._is_ending():
            self._doorbell.wait(IDLE_SECONDS)
        self._idle = False

    def _step_safely(self) -> float | None:
        try:
            return self.step()
        except Exception as error:  # noqa: BLE001 - whatever it is, the thread goes on
            self._failed(error)
            return self._backoff.delay(self._clock())

    def step(self) -> float | None:
        """Do one turn: coalesce what was pushed, and flush if that is due.

        Returns:
          float: Seconds until the next turn is due, or None if nothing is pending.
        """
        config = self._config()
        self._buffer.max_pending = config.max_pending
        self._absorb()
        if self._tickets:
            self._serve_tickets()
        if not self._buffer.messages:
            return None
        now = self._clock()
        pause = self._backoff.delay(now)
        if pause > 0:
            return pause
        if self._is_ending() or self._bucket.take(now, config.flush_interval):
            self._flush_everything()
        else:
            self._flush_full_batches(config.max_batch_size)
        return self._delay(config.flush_interval)

    def _delay(self, interval: float) -> float | None:
        if not self._buffer.messages:
            return None
        now = self._clock()
        return max(self._backoff.delay(now), self._bucket.delay(now, interval))

    def _serve_tickets(self) -> None:
        """Write everything for those who wait: at once, even during a pause, but only once
        per ticket; after that the ticket waits for the next try like everybody."""
        tickets = list(self._tickets)
        if self._backoff.delay(self._clock()) > 0 and all(ticket.tried for ticket in tickets):
            return
        for ticket in tickets:
            ticket.tried = True
        if self._flush_everything():
            for ticket in tickets:
                self._forget(ticket)
                ticket.latch.open()

    def _forget(self, ticket: _Ticket) -> None:
        try:
            self._tickets.remove(ticket)
        except ValueError:  # The other side of the flush did it.
            pass

    def _write_here(self, seconds: float) -> None:
        """Write in the calling thread, since no thread can be started; wait so long at most
        for another one that does the same."""
        if not self._right_to_write.acquire(timeout=seconds):
            return
        try:
            self._owner = threading.get_ident()
            self._step_safely()
        finally:
            self._owner = None
            self._right_to_write.release()

    # One flush.

    def _absorb(self) -> None:
        absorbed = self._buffer.absorb()
        if absorbed:
            self._stats += Stats(transitions=absorbed)
        self._report_drops()

    def _flush_everything(self) -> bool:
        """Write all that is pending by now, batch by batch; return whether all of it went."""
        self._absorb()
        remaining = self._buffer.messages
        while remaining > 0:
            batch = self._buffer.take(self._config().max_batch_size, MAX_BATCH_BYTES)
            if not batch:  # A receiver has flushed the rest.
                break
            remaining -= len(batch)
            if not self._write(batch):
                return False
        return True

    def _flush_full_batches(self, max_batch_size: int) -> None:
        while self._buffer.messages >= max_batch_size:
            if not self._write(self._buffer.take(max_batch_size, MAX_BATCH_BYTES)):
                return

    def _write(self, batch: Sequence[Entry]) -> bool:
        """Commit a batch, announce what it changed, and tidy up."""
        written = self._commit_all(batch)
        self._announce_news()
        self._tidy()
        return written

    def _commit_all(self, batch: Sequence[Entry]) -> bool:
        """Commit a batch.  If the database calls a value of it bad, halve it until the row is
        found; anything else that goes wrong puts back what isn't committed."""
        parts = [batch]
        while parts:
            part = parts.pop()
            try:
                self._news += self._commit(part)
            except BadDataError as error:
                if len(part) == 1:
                    self._refuse(part[0], error)
                else:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
            except BaseException as error:
                for entry in part:
                    entry.uncertain = True
                rest = [entry for unwritten in reversed(parts) for entry in unwritten]
                self._buffer.put_back([*part, *rest])
                self._report_drops()
                if not isinstance(error, Exception):
                    raise
                self._failed(error)
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
                    logger.exception("A receiver of task_changed failed for %r.", change.task)
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
        self._succeeded()
        self._count_flush(written, started)
        return written.changes

    def _refuse(self, entry: Entry, error: BadDataError) -> None:
        self._succeeded()
        self._stats += Stats(refused=1, last_error=_describe(error))
        logger.error(
            "The database refuses the state of task %s (%s, actor %s) as bad data, so it is not "
            "written; all others are. It says: %s",
            entry.winner.message_id,
            entry.winner.status.value,
            entry.winner.actor_name,
            str(error).partition("\n")[0],  # PostgreSQL's next lines hold the row itself.
        )

    def _failed(self, error: Exception) -> None:
        self._backoff.failed(self._clock())
        self._stats += Stats(failures=1, last_error=_describe(error))
        if not self._outage:
            self._outage = True
            logger.error(
                "Task states can't be written: %s. Up to %s messages are kept, and written later. "
                "Check that the database answers, and that it is migrated (manage.py migrate "
                "taskstate, with --database if DRAMATIQ_TASKS_DATABASE is set). This is logged "
                "once per outage.",
                _describe(error),
                f"{self._buffer.max_pending:,}",
                exc_info=error,
            )

    def _succeeded(self) -> None:
        self._backoff.succeeded()
        self._gave_up = False
        if self._outage:
            self._outage = False
            dropped = self._buffer.dropped
            self._report_drops_at = dropped + 1
            logger.warning(
                "Task states are written again; %s messages still wait, and %s states were "
                "dropped since this process began.",
                f"{len(self._buffer):,}",
                f"{dropped:,}",
            )

    def _report_drops(self) -> None:
        dropped = self._buffer.dropped
        if dropped < self._report_drops_at:
            return
        # A line per doubling: an hour of drops is a screen of log, not a disk of it.
        self._report_drops_at = 2 * dropped
        logger.error(
            "More than %s messages wait to be written, so the oldest states are dropped: %s so "
            "far. The cure is a database that answers, or a higher TASKSTATE['MAX_PENDING'].",
            f"{self._buffer.max_pending:,}",
            f"{dropped:,}",
        )

    def _count_flush(self, written: Written, started: float) -> None:
        self._stats += Stats(
            flushes=1,
            rows_written=len(written.changes),
            rows_unchanged=written.unchanged,
            last_flush_seconds=self._clock() - started,
        )

    def _is_in_transaction(self) -> bool:
        return self._store is not None and self._store.is_in_transaction()

    def _tidy(self) -> None:
        try:
            if self._store is not None:
                self._store.tidy()
        except Exception:
            logger.exception("The writer could not close an old database connection.")

    def _close_store(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            try:
                store.close()
            except Exception:
                logger.exception("The writer could not close its database connection.")


def _describe(error: BaseException) -> str:
    """Return an error as one line without a full stop."""
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":.")
