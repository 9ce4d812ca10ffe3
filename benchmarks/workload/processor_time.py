"""The processor time of other processes on this machine (Linux)."""

from pathlib import Path


def processor_seconds(pids):
    """Return the processor time that processes have taken so far, in seconds.  One that has ended
    counts as 0."""
    return sum(_seconds(pid) for pid in pids)


def _seconds(pid):
    try:
        # The first number is the time on a processor, in nanoseconds.
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except OSError:
        return 0.0
