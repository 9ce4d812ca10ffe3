"""The processor time of threads on this machine, also of those of other processes (Linux)."""

from pathlib import Path


def processor_seconds(ids):
    """Return the processor time that threads have taken so far, in seconds.  One that has ended
    counts as 0, as does one of another machine.

    Parameters:
      ids(Iterable): The native ids of threads.  The id of a process is that of its main thread, and
        the processes of PostgreSQL have no others.
    """
    return sum(map(_seconds, ids))


def _seconds(one):
    try:
        # The first number is the time on a processor, in nanoseconds.
        return int(Path(f"/proc/{one}/schedstat").read_text().split()[0]) / 1e9
    except OSError:
        return 0.0
