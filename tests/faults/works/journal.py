"""What the actors write down of their runs: an account that no code under test has a part in."""

import dataclasses
import json
import os
import time
from pathlib import Path

#: The environment variable that names the folder.
FOLDER = "WORKS_FOLDER"

#: What an actor may do, and what a row says if that was the last of a message.
STATUSES = {
    "done": "done",
    "boom": "failed",
    "expected": "failed",
    "retry": "failed",
    "skip": "skipped",
}


def folder():
    return Path(os.environ[FOLDER])


def life():
    """Return which life the messages are in: 0, or more if they were sent again."""
    try:
        return int((folder() / "life").read_text())
    except FileNotFoundError:
        return 0


_files = {}


def note(message_id, *words):
    """Add a line: one write, so that lines don't mix, and the kernel has it from then on."""
    pid = os.getpid()
    if pid not in _files:
        path = folder() / f"journal-{pid}"
        _files[pid] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    line = json.dumps([time.monotonic(), pid, message_id, *words])
    os.write(_files[pid], line.encode() + b"\n")


@dataclasses.dataclass
class RunOfWork:
    """One run of a message, by its own account."""

    message_id: str
    life: int
    attempt: int
    #: Whether no retry follows.
    is_last: bool
    began: float
    pid: int
    #: None if it did not come to its end.
    outcome: str = None
    ended: float = None


class Journal:
    """Reads what was written down.

    Parameters:
      path(Path): The folder.
    """

    def __init__(self, path):
        self.path = path

    def begin_life(self, number):
        """Let what runs from now on be the life of this number."""
        (self.path / "life").write_text(str(number))

    def runs(self):
        """Return the runs of each message by its id, in the order of their beginnings."""
        lines = []
        for path in self.path.glob("journal-*"):
            # What is being written right now may be seen in part.
            whole, _, _ = path.read_text().rpartition("\n")
            lines += [json.loads(line) for line in whole.splitlines()]
        found = {}
        open_runs = {}
        for moment, pid, message_id, token, what, life, attempt, is_last in sorted(lines):
            if what == "began":
                run = RunOfWork(message_id, life, attempt, is_last, moment, pid)
                open_runs[token] = run
                found.setdefault(message_id, []).append(run)
            else:
                run = open_runs.pop(token)
                run.outcome, run.ended = what, moment
        return found
