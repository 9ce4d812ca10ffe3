"""What a drill sees of processes from outside: the time they take, and what they hold (Linux)."""

import os
import threading
import time
from pathlib import Path

from tests.support.limits import LIMIT_SECONDS

ESTABLISHED = "01"


def until(condition, limit=LIMIT_SECONDS * 4, pause=0.1):
    """Wait until it is so; return how many seconds that took."""
    began = time.monotonic()
    pauses = threading.Event()
    while not condition():
        assert time.monotonic() < began + limit, f"not after {limit} seconds"
        pauses.wait(pause)
    return time.monotonic() - began


def cpu_seconds(pid):
    """Return how much processor time a process has taken so far."""
    # Its name, in parentheses, may hold anything.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = int(fields[11]), int(fields[12])
    return (user + system) / os.sysconf("SC_CLK_TCK")


def connections(pid, port):
    """Return how many connections to a port of this machine a process holds."""
    to_port = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        _, _, remote, state, *_, inode = line.split()[:10]
        if state == ESTABLISHED and int(remote.partition(":")[2], 16) == port:
            to_port.add(f"socket:[{inode}]")
    return sum(_target(link) in to_port for link in Path(f"/proc/{pid}/fd").iterdir())


def _target(link):
    try:
        return os.readlink(link)
    except FileNotFoundError:  # It was closed meanwhile.
        return None
