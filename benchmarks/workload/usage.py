"""What a process uses: time, processor time and context switches."""

from __future__ import annotations

import resource
import time
from typing import NamedTuple


class Usage(NamedTuple):
    """What this process has used up to one moment, or between two."""

    seconds: float
    #: The processor time of all threads.
    cpu_seconds: float
    #: The processor time of the calling thread.
    thread_seconds: float
    #: Voluntary context switches: how often a thread waited.
    switches: int

    @classmethod
    def now(cls):
        """Return the usage up to now; its seconds count from any moment."""
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        return cls(time.perf_counter(), time.process_time(), time.thread_time(), switches)

    def since(self, earlier):
        """Return the usage since an earlier one."""
        return Usage(*(now - then for now, then in zip(self, earlier)))
