"""The processor time of processes and threads on this machine (Linux)."""

from pathlib import Path


def processor_seconds(ids):
    """Return the processor time that processes or threads have taken so far, in seconds.  One that
    has ended counts as 0.

    Parameters:
      ids(Iterable): The ids of processes, and the native ids of threads.
    """
    return sum(map(_seconds, ids))


def _seconds(one):
    try:
        # The first number is the time on a processor, in nanoseconds.
        return int(Path(f"/proc/{one}/schedstat").read_text().split()[0]) / 1e9
    except OSError:
        return 0.0
