"""The current time, by two clocks."""

from __future__ import annotations

from time import monotonic, time_ns
from typing import Tuple

#: One moment, in milliseconds since 1970, and in seconds of the monotonic clock.
Timestamp = Tuple[int, float]


def now() -> Timestamp:
    """Return the current time."""
    return time_ns() // 1_000_000, monotonic()
