"""When the writer may flush: a rate limit while all is well, a backoff while it isn't.

Both take the time from their caller, in seconds of a monotonic clock.
"""

from __future__ import annotations

from typing import Callable

#: How many flushes may follow each other at once after a quiet time.  A lone task with one
#: retry takes six: enqueued, running, delayed, enqueued, running, done.
BURST = 6

#: What summing up fractions of a token may lose.
_ROUNDING = 1e-6

MIN_BACKOFF_SECONDS = 0.1
#: The longest pause is two intervals, held between these: an outage costs the database no more
#: tries than its normal load has flushes, and rows are right soon after its return.
MAX_BACKOFF_SECONDS = (1.0, 30.0)


def longest_backoff(interval: float) -> float:
    """Return how many seconds may lie between two tries, where flushes are ``interval`` apart."""
    shortest, longest = MAX_BACKOFF_SECONDS
    return min(max(2 * interval, shortest), longest)


class TokenBucket:
    """Allows ``BURST`` flushes at once, then one per interval."""

    def __init__(self) -> None:
        self._tokens = float(BURST)
        self._filled_at = float("-inf")

    def take(self, now: float, interval: float) -> bool:
        """Spend a token if there is one; an interval of 0 sets no limit."""
        self._fill(now, interval)
        if self._tokens < 1 - _ROUNDING:
            return False
        self._tokens -= 1
        return True

    def delay(self, now: float, interval: float) -> float:
        """Return how many seconds it takes until there is a token."""
        self._fill(now, interval)
        return max(0.0, (1 - self._tokens) * interval)

    def _fill(self, now: float, interval: float) -> None:
        if interval > 0:
            gained = (now - self._filled_at) / interval
            self._tokens = min(float(BURST), self._tokens + gained)
        else:
            self._tokens = float(BURST)
        self._filled_at = now


class Backoff:
    """Doubles the pause with every failure in a row, up to ``longest`` seconds, and jitters it so
    that a hundred workers don't come back to a database in the same instant.

    Parameters:
      random(Callable): Returns a float from 0 to 1.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self.longest = MAX_BACKOFF_SECONDS[0]
        self._failures = 0
        self._retry_at = float("-inf")

    def failed(self, now: float) -> None:
        """Note a failure: the next try is due after a pause."""
        pause = min(self.longest, MIN_BACKOFF_SECONDS * 2 ** min(self._failures, 20))
        self._failures += 1
        self._retry_at = now + pause * (0.5 + self._random() / 2)

    def succeeded(self) -> None:
        """Note a success: there is no pause any more."""
        self._failures = 0
        self._retry_at = float("-inf")

    def delay(self, now: float) -> float:
        """Return how many seconds it takes until the next try is due."""
        return max(0.0, self._retry_at - now)
