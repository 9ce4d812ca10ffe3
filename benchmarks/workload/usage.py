"""What a process uses: time, processor time and context switches."""

from __future__ import annotations

import resource
import threading
import time
from typing import NamedTuple

from benchmarks.workload.processor_time import processor_seconds

#: The names of the threads that write, of this package and of the contender ``limit``.
WRITERS = ("taskstate-writer", "limit")


class Usage(NamedTuple):
    """What this process has used up to one moment, or between two."""

    seconds: float
    #: The processor time of all threads.
    cpu_seconds: float
    #: The processor time of the calling thread.
    thread_seconds: float
    #: The processor time of the thread that writes; 0 if there is none.
    writer_seconds: float
    #: Voluntary context switches: how often a thread waited.
    switches: int

    @classmethod
    def now(cls):
        """Return the usage up to now; its seconds count from any moment."""
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        writers = [one.native_id for one in threading.enumerate() if one.name in WRITERS]
        return cls(
            time.perf_counter(),
            time.process_time(),
            time.thread_time(),
            processor_seconds(writers),
            switches,
        )

    def since(self, earlier):
        """Return the usage since an earlier one."""
        return Usage(*(now - then for now, then in zip(self, earlier)))
