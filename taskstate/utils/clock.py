"""The current time, by two clocks."""

from __future__ import annotations

from time import monotonic, time_ns
from typing import Tuple

# The hooks call time_ns and monotonic themselves, which saves a call of now.
__all__ = ["MAX_TIME", "Timestamp", "monotonic", "now", "time_ns"]

#: One moment, in milliseconds since 1970, and in seconds of the monotonic clock.
Timestamp = Tuple[int, float]

#: The greatest time, in the year 2109: a rank has 42 bits for it.
MAX_TIME = (1 << 42) - 1


def now() -> Timestamp:
    """Return the current time."""
    # A clock that is out of range must not change the other bits of a rank.
    return time_ns() // 1_000_000 & MAX_TIME, monotonic()
