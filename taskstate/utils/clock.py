"""The current time, by two clocks."""

from __future__ import annotations

import time
from typing import Tuple

#: One moment, in milliseconds since 1970, and in seconds of the monotonic clock.
Timestamp = Tuple[int, float]


def now() -> Timestamp:
    """Return the current time."""
    return int(time.time() * 1000), time.monotonic()
