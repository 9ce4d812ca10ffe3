"""Waiting: a deadline, and two ways to wake a thread that survive injected exceptions.

Dramatiq raises ``TimeLimitExceeded`` and ``Shutdown`` in its worker threads between any two
bytecodes.  ``threading.Event.set`` takes a lock in Python code: an exception injected there
could leave it locked for ever, and every later push waiting on it.  A bare lock, used as a
binary semaphore, changes its state in one C-level call.
"""

from __future__ import annotations

import math
import threading
import time


class Deadline:
    """So many seconds from now; None is never."""

    def __init__(self, seconds: float | None) -> None:
        self._end = math.inf if seconds is None else time.monotonic() + seconds

    def left(self) -> float:
        """Return how many seconds are left: 0 when it has passed, or infinity."""
        return max(0.0, self._end - time.monotonic())


class Doorbell:
    """Wakes the one thread that waits; ringing twice is ringing once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        """Wake the waiter, or let its next wait return at once.  Never waits."""
        try:
            self._lock.release()
        except RuntimeError:  # It was rung already.
            pass

    def wait(self, seconds: float) -> bool:
        """Wait for a ring, ``seconds`` at most; return whether it came."""
        return self._lock.acquire(timeout=seconds)


class Latch:
    """Opens once, for all who wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def open(self) -> None:
        """Let everybody through.  Called once."""
        self._lock.release()

    def wait(self, seconds: float) -> bool:
        """Wait ``seconds`` at most; return whether the latch is open."""
        if not self._lock.acquire(timeout=seconds):
            return False
        self._lock.release()
        return True
