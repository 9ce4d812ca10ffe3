"""The project at work: one sender, any workers, and the rows that there must be."""

import collections
import contextlib
import os
import threading
import time

from taskstate.models import Task
from tests.faults.watching import until
from tests.faults.works import journal
from tests.support.processes import ROOT, LiveProcess, environment
from tests.support.workers import Rundramatiq

READY_SECONDS = 60
THREADS = 4
#: After the last line of the journal: longer than the delay of a retry, and than a lost message
#: takes to come back.
QUIET_SECONDS = 1.5
PAUSE_SECONDS = 0.1
DONE_SECONDS = 90


class Site:
    """The project, on a broker and a database.

    Parameters:
      broker(dict): The environment that says which broker.
      alias(str): The database.
      folder(Path): Where the journal is.
      more(dict): More of the environment.
    """

    def __init__(self, broker, alias, folder, **more):
        broker = dict(broker)
        paths = [broker.pop("WORKS_PATH", ""), more.pop("PYTHONPATH", ""), str(ROOT)]
        self.env = environment(
            alias,
            DJANGO_SETTINGS_MODULE="tests.faults.works.settings",
            PYTHONPATH=os.pathsep.join(filter(None, paths)),
            **{journal.FOLDER: str(folder)},
            **broker,
            **more,
        )
        self.journal = journal.Journal(folder)
        #: Whether the broker lets a retry follow.
        self.has_retries = True
        #: What a row says of each outcome that was a message's last.
        self.statuses = dict(journal.STATUSES)
        #: Of each message: what it is a part of, and the life that it was sent for last.
        self.parts = {}
        self._lives = {}
        self._life = 0

    @contextlib.contextmanager
    def sender(self, **env):
        """A process that sends by order."""
        with LiveProcess("tests.faults.works.sender", [], {**self.env, **env}) as process:
            yield process

    @contextlib.contextmanager
    def workers(self, processes=2, **env):
        """Workers that are stopped in the end."""
        with self.start_workers(processes, **env) as workers:
            yield workers

    def start_workers(self, processes=2, **env):
        """Return workers that are ready."""
        options = ("--processes", str(processes), "--threads", str(THREADS))
        workers = Rundramatiq({**self.env, **env}, *options)
        until(lambda: len(workers.ready()) >= processes, READY_SECONDS)
        return workers

    def begin_life(self, number):
        self._life = number
        self.journal.begin_life(number)

    def note(self, part, ids):
        """Note what was sent."""
        self.parts.update(dict.fromkeys(ids, part))
        self._lives.update(dict.fromkeys(ids, self._life))

    def finish(self, *, is_complete=True, is_idle=lambda: True):
        """Wait until all that was sent has run to its end, and nothing runs any more.

        Parameters:
          is_complete(bool): Whether each message has to run in this life: a group's callback
            doesn't if one of its messages was lost and found.
          is_idle(callable): Returns whether the broker holds no more messages.
        """
        pause = threading.Event()
        deadline = time.monotonic() + DONE_SECONDS
        while True:
            runs = self.journal.runs()
            waiting = [key for key in self.parts if not self._has_ended(key, runs, is_complete)]
            last = max(
                (max(run.began, run.ended or 0) for key in runs for run in runs[key]), default=0
            )
            if not waiting and time.monotonic() > last + QUIET_SECONDS and is_idle():
                return
            assert time.monotonic() < deadline, (
                f"{len(waiting)} of {len(self.parts)} have not ended: "
                f"{collections.Counter(self.parts[key] for key in waiting)}"
            )
            pause.wait(PAUSE_SECONDS)

    def _has_ended(self, key, runs, is_complete):
        if key not in runs:
            return not is_complete
        last = runs[key][-1]
        is_over = last.outcome is not None and (last.is_last or not self.has_retries)
        return is_over and not (is_complete and last.life < self._lives[key])

    def wrong(self):
        """Compare the rows with what the actors wrote down; return the number of rows, and those
        that are wrong: (part, what the row says, what it should say) to the number of them."""
        runs = self.journal.runs()
        rows = Task.objects.in_bulk(list(self.parts))
        rows = {str(key): task for key, task in rows.items()}
        found = collections.Counter()
        self.examples = {}
        for key, part in self.parts.items():
            if key not in runs:
                continue
            allowed = [(self.statuses[run.outcome], run.attempt) for run in last_ones(runs[key])]
            task = rows.get(key)
            said = (task.status, task.attempt) if task else None
            if said in allowed:
                continue
            what = (part, said, allowed[-1])
            found[what] += 1
            self.examples.setdefault(what, (key, runs[key]))
        return len(self.parts), found


def last_ones(runs):
    """Return the runs that may be called the last one: it, and those that ended while it ran."""
    ended = [run for run in runs if run.outcome is not None]
    last = max(ended, key=lambda run: run.ended)
    return [run for run in ended if run.ended > last.began and run is not last] + [last]


def summarize(wrong):
    """Return the wrong rows as text, one line each."""
    return "".join(
        f"\n    {number} of {part}: the row says {said}, the actor {expected}"
        for (part, said, expected), number in sorted(wrong.items(), key=str)
    )
