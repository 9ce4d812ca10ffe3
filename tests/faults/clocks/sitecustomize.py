"""Clocks that are wrong: on the path of a process, this gives it one of its own.

``CLOCK_SKEW`` is by how many seconds it may be off.  With ``CLOCK_JUMPS`` it jumps now and then to
another time within that.  A child has another clock than its parent.
"""

import os
import random
import time

SKEW = float(os.environ.get("CLOCK_SKEW", "0"))
#: How many seconds there are between two jumps; 0 for none.
JUMPS = float(os.environ.get("CLOCK_JUMPS", "0"))

_time, _time_ns = time.time, time.time_ns
_known = (None, 0.0)


def offset():
    global _known  # noqa: PLW0603 - one number per process
    key = (os.getpid(), time.monotonic() // JUMPS if JUMPS else 0)
    if _known[0] != key:
        _known = (key, random.Random(str(key)).uniform(-SKEW, SKEW))
    return _known[1]


if SKEW:
    time.time = lambda: _time() + offset()
    time.time_ns = lambda: _time_ns() + int(offset() * 1e9)
