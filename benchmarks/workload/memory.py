"""The memory of this process."""

import resource
from pathlib import Path


def peak_bytes():
    """Return the peak memory of this process."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        # Not on Linux. There, this value includes the parent's memory before exec.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = next(line for line in lines if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024
