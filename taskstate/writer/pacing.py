"""When the writer may flush: a rate limit in normal operation, and a backoff after failures.

The caller passes the current time to both, in seconds of a monotonic clock.
"""

from __future__ import annotations

from typing import Callable

#: How many flushes may follow one another without a pause after an idle time.  A single task with
#: one retry needs six: enqueued, running, delayed, enqueued, running, done.
BURST = 6

#: The error that may add up in sums of fractions of a token.
_ROUNDING = 1e-6

MIN_BACKOFF_SECONDS = 0.1
#: The longest pause is two intervals, but within these limits.  So during an outage there are no
#: more tries than there are flushes in normal operation, and soon after it the rows are correct.
MAX_BACKOFF_SECONDS = (1.0, 30.0)


def longest_backoff(interval: float) -> float:
    """Return the longest pause between two tries, for this interval between flushes, in seconds."""
    shortest, longest = MAX_BACKOFF_SECONDS
    return min(max(2 * interval, shortest), longest)


class TokenBucket:
    """Allows ``BURST`` flushes at once, then one per interval."""

    def __init__(self) -> None:
        self._tokens = float(BURST)
        self._filled_at = float("-inf")

    def take(self, now: float, interval: float) -> bool:
        """Take a token, and return whether there was one.  An interval of 0 sets no limit."""
        self._fill(now, interval)
        if self._tokens < 1 - _ROUNDING:
            return False
        self._tokens -= 1
        return True

    def delay(self, now: float, interval: float) -> float:
        """Return how many seconds remain until there is a token."""
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
    """Doubles the pause after each failure in a row, up to ``longest`` seconds.  Each pause has a
    jitter, so that many workers don't return to a database at the same moment.

    Parameters:
      random(Callable): Returns a float from 0 to 1.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self.longest = MAX_BACKOFF_SECONDS[0]
        self._failures = 0
        self._retry_at = float("-inf")

    def failed(self, now: float) -> None:
        """Record a failure: the next try is due after a pause."""
        pause = min(self.longest, MIN_BACKOFF_SECONDS * 2 ** min(self._failures, 20))
        self._failures += 1
        self._retry_at = now + pause * (0.5 + self._random() / 2)

    def succeeded(self) -> None:
        """Record a success: the next try is due at once."""
        self._failures = 0
        self._retry_at = float("-inf")

    def delay(self, now: float) -> float:
        """Return how many seconds remain until the next try is due."""
        return max(0.0, self._retry_at - now)
