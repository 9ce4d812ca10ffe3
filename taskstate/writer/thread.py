"""The background thread of a writer: how it starts, sleeps and ends."""

from __future__ import annotations

import _thread
import contextlib
import math
import threading
import time
from typing import Callable, Iterator

from taskstate import conf
from taskstate.utils.sync import Deadline, Latch, WakeEvent, WriterThread
from taskstate.writer.cycle import FlushCycle

#: The name of the thread, for debuggers.
THREAD_NAME = "taskstate-writer"

#: A thread that has not begun to run after this many seconds is started again.
START_SECONDS = 1.0
#: A thread that waits while the writer's thread starts checks at this interval whether it runs.
START_CHECK_SECONDS = 0.05
#: After this many idle seconds, connections are closed according to CONN_MAX_AGE.  The next push
#: wakes the thread.
IDLE_SECONDS = 1.0
#: How often a fork that waits for a step checks whether the step hangs, in seconds.
FORK_CHECK_SECONDS = 0.1


class BackgroundThread:
    """Runs the steps of a flush cycle, in a thread that starts when there is work.

    Parameters:
      cycle(FlushCycle): The cycle.
      register(Callable): Called before the thread starts, so that the process stops it at exit and
        prepares it for forks.
      clock(Callable): Returns monotonic seconds.
    """

    def __init__(
        self,
        cycle: FlushCycle,
        register: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cycle = cycle
        self._register = register
        self._clock = clock
        #: Whether a push has to wake or start the thread.
        self.is_idle = True
        self._wake_event = WakeEvent()
        self._cycle.buffer.queue.wake_writer = self._wake_event.set
        # Held by the thread that may write: this one, or a caller if no thread can be started.
        self._writer_lock = threading.Lock()
        # Held during a step, including its statements and receivers.  A fork waits for it.  It is
        # reentrant, since a receiver may fork during a step.  It has an owner, so an exception that
        # is raised in a waiting fork can't leave it locked.
        self._step_lock = threading.RLock()
        # When the step began that is under way; infinity if none is.
        self._step_started_at = math.inf
        # Held by a fork that waits for a step, so that no other step begins meanwhile.
        self._turnstile = threading.Lock()
        self._writing_thread_id: int | None = None
        self._thread: threading.Thread | None = None
        # When a thread was started that has not begun to run.
        self._start_requested_at = -math.inf
        # The thread that should end.  A later thread is not affected.
        self._thread_to_end: threading.Thread | None = None

    # For any thread.

    @property
    def may_be_writing(self) -> bool:
        """Whether the thread may be writing a batch."""
        return not self.is_idle and self._writer_lock.locked()

    def is_current(self) -> bool:
        """Return whether the calling thread is the one that writes."""
        return self._writing_thread_id == threading.get_ident()

    def wake(self) -> None:
        """Let the thread take a step soon, and start it if it does not run.  Never waits."""
        if self._thread is None:
            self._start_soon()
        else:
            self._wake_event.set()

    def wait(self, latch: Latch, time_left: Callable[[], float]) -> bool:
        """Wait until the thread opens a latch.  Return False if no time is left before that."""
        while True:
            # The thread may end meanwhile, so check it from time to time.
            limit = min(time_left(), IDLE_SECONDS)
            if self._thread is not None:
                self._wake_event.set()
            elif self._is_starting():
                limit = min(limit, START_CHECK_SECONDS)
            elif not self._start():
                self._write_in_this_thread(limit)
            if latch.wait(limit):
                return True
            if limit == 0:
                return False

    def end(self, deadline: Deadline) -> None:
        """Let the thread end as soon as it has no work.  Wait for that until ``deadline``."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            self._thread_to_end = thread
            self._wake_event.set()
            thread.join(deadline.left())

    def before_fork(self, seconds: float) -> bool:
        """Stop the thread between two steps while the process forks.

        If the process forked while the thread was in a database driver, the child would inherit the
        locks of the driver, and nothing would ever release them.  OpenSSL has such locks while it
        loads certificates, for example.

        Parameters:
          seconds(float): How long to wait at most for the end of a step.  A step that has already
            lasted that long hangs, and does not delay the fork.

        Returns:
          bool: False if the process forks in the middle of a step.
        """
        if self._step_lock.acquire(blocking=False):  # Always in a receiver, which is in a step.
            return True
        with self._turnstile:
            for _ in range(max(1, round(seconds / FORK_CHECK_SECONDS))):
                if self._step_lock.acquire(timeout=FORK_CHECK_SECONDS):
                    return True
                if self._clock() - self._step_started_at >= seconds:
                    break
        return False

    def after_fork_in_parent(self) -> None:
        """Let the thread continue after a fork."""
        with contextlib.suppress(RuntimeError):  # The fork did not wait for the step.
            self._step_lock.release()

    # Starting the thread.

    def _start_soon(self) -> None:
        """Start the thread without waiting for it.

        ``Thread.start`` waits until the new thread runs, and that may first import modules and open
        a connection before other threads get to run.  The first ``send()`` of a process would take
        milliseconds.  So another thread calls ``Thread.start``.
        """
        if self._is_starting():
            return
        self._register()
        try:
            self._start_requested_at = self._clock()
            _thread.start_new_thread(self._start, ())
        except BaseException as error:
            # Dramatiq may raise an exception here; a later push then starts the thread.
            self._start_requested_at = -math.inf
            if not isinstance(error, RuntimeError):
                raise
            # The interpreter is shutting down, or out of threads.

    def _is_starting(self) -> bool:
        return self._clock() - self._start_requested_at < START_SECONDS

    def _start(self) -> bool:
        """Start the thread.  If several callers do this at once, all threads but one end again."""
        self._register()
        thread = WriterThread(target=self._run, name=THREAD_NAME, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # The interpreter is shutting down, or out of threads.
            self._start_requested_at = -math.inf
            return False
        return True

    # In the thread.

    def _run(self) -> None:
        if not self._writer_lock.acquire(blocking=False):
            self._start_requested_at = -math.inf
            return
        try:
            self._writing_thread_id = threading.get_ident()
            if not self._cycle.has_work:  # Another thread has done the work.
                return
            self._thread = threading.current_thread()
            self.is_idle = False
            # Last, so that a caller always sees either a thread that starts or one that runs.
            self._start_requested_at = -math.inf
            while not self._should_end():
                with self._no_fork():
                    pause = self._step_safely()
                if not self._sleep(pause):
                    with self._no_fork():
                        self._cycle.flusher.close_idle_connections()
        finally:
            with self._no_fork():
                self._cycle.flusher.close()
            self._thread = None
            self._start_requested_at = -math.inf
            self._release_writer_lock()

    @contextlib.contextmanager
    def _no_fork(self) -> Iterator[None]:
        """Let forks wait for a step."""
        with self._turnstile:
            pass
        with self._step_lock:
            self._step_started_at = self._clock()
            try:
                yield
            finally:
                self._step_started_at = math.inf

    def _release_writer_lock(self) -> None:
        """Let another thread write, and start it if there is work.  A push may have relied on this
        thread, or started one that ended because this one held the lock."""
        self.is_idle = True
        self._writing_thread_id = None
        self._writer_lock.release()
        if self._cycle.has_work:
            self._start()

    def _is_ending(self) -> bool:
        return self._thread_to_end is not None and self._thread_to_end is self._thread

    def _should_end(self) -> bool:
        return self._is_ending() and not self._cycle.has_work

    def _sleep(self, seconds: float | None) -> bool:
        """Wait until the next step is due, or until there is work.  Return False if there was no
        work for ``IDLE_SECONDS``."""
        if seconds is not None:
            # The queue wakes it if enough items wait to fill a batch.  The limit is for settings
            # that change meanwhile.
            self._wake_event.wait(min(seconds, IDLE_SECONDS))
            return True
        self.is_idle = True
        # A push sets the event only from now on: check what came just before.
        is_busy = bool(self._cycle.buffer.queue) or bool(self._cycle.requests) or self._is_ending()
        was_woken = is_busy or self._wake_event.wait(IDLE_SECONDS)
        self.is_idle = False
        return was_woken

    def _step_safely(self) -> float | None:
        try:
            conf.check_database()
            return self._cycle.step(is_ending=self._is_ending())
        except Exception as error:  # noqa: BLE001 - no error ends the thread
            self._cycle.handle_failure(error)
            return self._cycle.backoff.delay(self._clock())

    def _write_in_this_thread(self, seconds: float) -> None:
        """Write in the calling thread, since no thread can be started.  Wait at most this many
        seconds for another caller that does the same."""
        if not self._writer_lock.acquire(timeout=seconds):
            return
        try:
            self._writing_thread_id = threading.get_ident()
            self.is_idle = False
            self._step_safely()
        finally:
            self._release_writer_lock()
