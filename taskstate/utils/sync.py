"""Threads: a deadline, two ways to wake a thread, and the class of the writers' threads.

Dramatiq raises ``TimeLimitExceeded`` and ``Shutdown`` in its worker threads, between any two
bytecodes.  ``threading.Event.set`` acquires a lock in Python code.  An exception that is raised
there could leave it locked, and every later push would wait forever.  The classes here use a plain
lock as a binary semaphore, which changes its state in one operation in C.
"""

from __future__ import annotations

import math
import threading
import time


class WriterThread(threading.Thread):
    """The thread of a writer.  Only the writer uses its database connections."""


class Deadline:
    """The end of a time limit.

    Parameters:
      seconds(float): How many seconds from now; None for no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self._end = math.inf if seconds is None else time.monotonic() + seconds

    def left(self) -> float:
        """Return how many seconds are left: 0 after the deadline, infinity if there is none."""
        return max(0.0, self._end - time.monotonic())


class WakeEvent:
    """Wakes the single thread that waits for it.  Setting it twice wakes the thread once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Wake the waiting thread, or let its next wait return at once.  Never waits."""
        try:
            self._lock.release()
        except RuntimeError:  # It is set already.
            pass

    def wait(self, seconds: float) -> bool:
        """Wait until it is set, but no longer than ``seconds``.  Return whether it was set, and
        reset it."""
        return self._lock.acquire(timeout=seconds)


class Latch:
    """Opens once, and releases all threads that wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def open(self) -> None:
        """Release all threads, now and later."""
        try:
            self._lock.release()
        except RuntimeError:  # It is open.
            pass

    def wait(self, seconds: float) -> bool:
        """Wait until the latch is open, but no longer than ``seconds``.  Return whether it is
        open."""
        if not self._lock.acquire(timeout=seconds):
            return False
        self._lock.release()
        return True
