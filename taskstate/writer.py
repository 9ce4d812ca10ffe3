"""The background thread: when to flush, when to try again, when to stop, when to fork.

One ``Writer`` serves one middleware.  ``push`` hands it a transition; its thread coalesces them
and commits them through a store.  It knows no Django model: the flusher with its store,
the clock and the settings are handed in.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from typing import Callable

from . import conf
from .conf import Config
from .flusher import Flusher, Stats
from .pacing import TokenBucket, longest_backoff
from .stores import Store
from .threads import Deadline, Doorbell, Latch
from .transitions import Pushed, Transition

logger = logging.getLogger(__name__)

#: How the thread is called in a debugger.
THREAD_NAME = "taskstate-writer"

#: While flushes are rate-limited nobody rings: the writer looks for a full batch this often.
NAP_SECONDS = 0.05
#: An idle writer is woken by the next push.  After so long it rests: it keeps no connection that
#: it isn't meant to keep.
IDLE_SECONDS = 1.0


class _Ticket:
    """Somebody waits for everything pushed so far."""

    def __init__(self) -> None:
        self.latch = Latch()
        self.tried = False


class Writer:
    """Writes what is pushed, and makes known what changed.

    Constructing one is inert; the first push starts its thread.

    Parameters:
      make_flusher(Callable): Returns a flusher: one now, and another in each forked child.
      config(Callable): Returns the settings in force.
      watch(Callable): Takes the writer each time its thread is about to start, so that somebody
        stops it at exit and tells it of forks.
      clock(Callable): Returns monotonic seconds; the flusher's own.
    """

    def __init__(
        self,
        *,
        make_flusher: Callable[[], Flusher],
        config: Callable[[], Config],
        watch: Callable[[Writer], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._watch = watch
        self._clock = clock
        self._make_flusher = make_flusher
        self._is_synchronous = False
        self._seen_changes: int | None = None
        self._reset()

    def _reset(self) -> None:
        self._flusher = self._make_flusher()
        self._buffer = self._flusher.buffer
        self._backoff = self._flusher.backoff
        self._bucket = TokenBucket()
        self._gave_up = False
        self._tickets: deque[_Ticket] = deque()
        self._doorbell = Doorbell()
        # Whoever holds it may write: the thread, or a caller when no thread can be started.
        self._right_to_write = threading.Lock()
        # Held during a turn of the thread, database and receivers included; a fork waits for it.
        # It knows its owner: a receiver may fork, in the middle of a turn, and an exception that
        # is injected into a waiting fork can't orphan it.
        self._turn = threading.RLock()
        self._owner: int | None = None
        self._thread: threading.Thread | None = None
        self._idle = False
        # The thread that is asked to end; a later one isn't meant by it.
        self._ending: threading.Thread | None = None

    # What any thread may call.

    def push(self, pushed: Pushed) -> None:
        """Hand over a fact, or what makes one later.  One append; it never waits, and
        never touches the database, except where ``SYNCHRONOUS`` asks for just that."""
        if self._seen_changes != conf.changes.count:  # To ask each time would cost 0.2 us.
            changes = conf.changes.count
            self._is_synchronous = self._config().synchronous
            self._seen_changes = changes
        if self._is_synchronous:
            self._watch(self)
            self._flusher.write_now(pushed)
            return
        self._buffer.push(pushed)
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
            return not self._flusher.is_in_transaction() and self._flush_everything()
        # The buffer first: what left it is written once nobody writes any more.
        if not self._buffer and (self._idle or not self._right_to_write.locked()):
            return True
        ticket = _Ticket()
        self._tickets.append(ticket)
        if self._wait(ticket.latch, Deadline(timeout).left):
            return True
        self._forget(ticket)
        return False

    def push_and_wait(self, transition: Transition, left: Callable[[], float]) -> bool:
        """Hand over a fact, and wait until it is settled: committed, as a rule, or it lost to a
        newer one, was cleared or refused.  The thread writes it at once, together with what others
        wait for.

        Parameters:
          left(Callable): Returns how many seconds there are still to wait.

        Returns:
          bool: False if there is no time left: the process is about to end.  It stays pending.
        """
        if self._owner == threading.get_ident():
            # A receiver of ``task_changed`` runs a worker: nobody else will write meanwhile.
            self.push(transition)
            return self.flush()
        latch = Latch()
        self._buffer.push_awaited(transition, latch)
        if self._wait(latch, left):
            return True
        self._give_up(self._config().shutdown_timeout)
        return False

    def _wait(self, latch: Latch, left: Callable[[], float]) -> bool:
        while True:
            # The thread may end while somebody waits: look after it now and then.
            limit = min(left(), IDLE_SECONDS)
            if self._thread is not None:
                self._doorbell.ring()
            elif not self._start():
                self._write_here(limit)
            if latch.wait(limit):
                return True
            if limit == 0:
                return False

    def stop(self, timeout: float | None = None) -> bool:
        """Flush, then end the thread.  Idempotent, and not final: a later push starts a thread
        again.

        Parameters:
          timeout(float): Seconds that it may take; None takes ``shutdown_timeout``, and no time
            at all if somebody has waited that long in vain: worker threads wait at their shutdown,
            then a worker stops its writer, and then its process does.

        Returns:
          bool: Whether everything was written.  If not, the thread goes on trying for as
            long as the process lives.
        """
        if timeout is None:
            timeout = 0 if self._gave_up else self._config().shutdown_timeout
        deadline = Deadline(timeout)
        if not self.flush(timeout):
            self._give_up(timeout)
            return False
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            self._ending = thread
            self._doorbell.ring()
            thread.join(deadline.left())
        return True

    def _give_up(self, seconds: float) -> None:
        """Note that the database was waited for in vain, and say so unless that was said."""
        if self._gave_up:
            return
        self._gave_up = True
        stats = self.stats()
        logger.error(
            "The states of %d tasks could not be written within %.1f seconds; they are lost if "
            "this process ends now, but for those whose messages wait to be acknowledged "
            "(TASKSTATE['FLUSH_BEFORE_ACK']): the broker delivers these again. Last error: %s. "
            "The cure is a database that answers, or a longer TASKSTATE['SHUTDOWN_TIMEOUT'].",
            stats.pending,
            seconds,
            stats.last_error,
        )

    def stats(self) -> Stats:
        """Return what this writer has done so far."""
        return self._flusher.stats()

    def hold_still(self, seconds: float) -> None:
        """Keep the thread between two turns while the process forks, if that can be had within
        ``seconds``: a child that is born while the thread is inside a database driver inherits
        its locks, locked for ever."""
        self._turn.acquire(timeout=seconds)

    def let_go(self) -> None:
        """Let the thread go on after a fork, in the parent."""
        with contextlib.suppress(RuntimeError):  # It couldn't be had in time.
            self._turn.release()

    def after_fork(self) -> Store | None:
        """Begin anew in a forked child: what was pending is still the parent's.

        Returns:
          Store: The parent's, which the child must keep alive and never touch: its connections
            are the parent's, and would be closed with it.
        """
        store = self._flusher.abandon()
        self._buffer.withdraw()
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
                if not self._sleep(pause):
                    with self._turn:
                        self._flusher.rest()
        finally:
            with self._turn:
                self._flusher.close()
            self._thread = None
            self._give_back_the_right()

    def _give_back_the_right(self) -> None:
        """Let somebody else write.  A push may have relied on this thread, or have started one that
        ended at once, for want of the right: see to it that nothing is left behind."""
        self._owner = None
        self._right_to_write.release()
        if self._buffer or self._tickets:
            self._start()

    def _is_ending(self) -> bool:
        return self._ending is not None and self._ending is self._thread

    def _may_end(self) -> bool:
        return self._is_ending() and not self._buffer and not self._tickets

    def _sleep(self, seconds: float | None) -> bool:
        """Wait until the next turn is due, or there is something to do; return False if there
        was nothing to do for a while."""
        if seconds is not None:
            self._doorbell.wait(min(seconds, NAP_SECONDS))
            return True
        self._idle = True
        # Only now may a push rely on the bell: look once more for what came just before.
        is_busy = not self._buffer.untouched or bool(self._tickets) or self._is_ending()
        is_rung = is_busy or self._doorbell.wait(IDLE_SECONDS)
        self._idle = False
        return is_rung

    def _step_safely(self) -> float | None:
        try:
            return self.step()
        except Exception as error:  # noqa: BLE001 - whatever it is, the thread goes on
            self._flusher.failed(error)
            return self._backoff.delay(self._clock())

    def step(self) -> float | None:
        """Do one turn: coalesce what was pushed, and flush if that is due.

        Returns:
          float: Seconds until the next turn is due, or None if nothing is pending.
        """
        config = self._config()
        self._buffer.max_pending = config.max_pending
        self._backoff.longest = longest_backoff(config.flush_interval)
        self._flusher.absorb()
        if self._tickets:
            self._serve_tickets()
        if not self._buffer.messages:
            return None
        now = self._clock()
        pause = self._backoff.delay(now)
        if pause > 0:
            return pause
        if (
            self._is_ending()
            or self._buffer.is_awaited
            or self._bucket.take(now, config.flush_interval)
        ):
            self._flush_everything()
        else:
            self._flusher.full_batches(config.max_batch_size)
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

    def _flush_everything(self) -> bool:
        flushed = self._flusher.everything(self._config().max_batch_size)
        self._gave_up = self._gave_up and not flushed
        return flushed

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
            self._give_back_the_right()
