"""What a worker process acknowledges, how long its statements take, and how late its threads are: a
file of each process, which outlives a SIGKILL."""

import os
import threading
import time
from pathlib import Path

import dramatiq
from django.db.backends.signals import connection_created

#: The environment variable that names the folder of the files.
FOLDER = "FAULTS_ACKS"
#: How long a thread sleeps that measures how late threads wake up.
SLEEP_SECONDS = 0.05


class AckLog(dramatiq.Middleware):
    """Notes each message that is about to be acknowledged or rejected.

    It belongs behind ``StateMiddleware``: what it has not noted, the broker still has; of what it
    has noted, the outcome was tracked before.
    """

    def after_process_boot(self, broker):
        path = Path(os.environ[FOLDER]) / str(os.getpid())
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        connection_created.connect(self._watch)
        threading.Thread(target=self._measure_lateness, daemon=True).start()

    def before_ack(self, broker, message):
        if "eta" not in message.options:  # A delayed copy, whose successor is what runs.
            self._note("ack", message.message_id, time.monotonic())

    before_nack = before_ack

    def _watch(self, connection, **_):
        if self._time not in connection.execute_wrappers:
            connection.execute_wrappers.append(self._time)

    def _time(self, execute, *arguments):
        began = time.monotonic()
        self._note("begun", began, began)
        try:
            return execute(*arguments)
        finally:
            self._note("statement", began, time.monotonic())

    def _measure_lateness(self):
        never = threading.Event()
        while True:
            due = time.monotonic() + SLEEP_SECONDS
            never.wait(SLEEP_SECONDS)
            self._note("late", due, time.monotonic())

    def _note(self, *words):
        # One write each: threads don't mix their lines, and the kernel has it from then on.
        os.write(self._file, " ".join(map(str, words)).encode() + b"\n")


class AckReader:
    """Reads the files of all processes.

    Parameters:
      folder(Path): Where they are.
    """

    def __init__(self, folder):
        #: Of each message, by its id: when it was acknowledged last, and by which process.
        self.last = {}
        #: Of each process: when it acknowledged something.
        self.moments = {}
        #: Of each process and kind of delay: when it began and ended.
        self._delays = {}
        for path in folder.iterdir():
            pid = int(path.name)
            self.moments[pid] = []
            for line in path.read_text().splitlines():
                kind, first, second = line.split()
                if kind == "ack":
                    moment = float(second)
                    self.moments[pid].append(moment)
                    self.last[first] = max(self.last.get(first, (0.0, 0)), (moment, pid))
                else:
                    self._delays.setdefault((pid, kind), []).append((float(first), float(second)))

    def longest_statement(self, pid, since, until):
        """Return how long a statement of a process took in a time at most, the one included that
        was under way at its end."""
        statements = self._delays.get((pid, "statement"), [])
        begun, _ = self._delays.get((pid, "begun"), [(until, until)])[-1]
        if begun not in {began for began, _ in statements}:
            statements = [*statements, (begun, until)]
        return _longest(statements, since)

    def longest_lateness(self, pid, since, until):
        """Return how late a thread of a process woke up in a time at most, the one included that
        slept at its end."""
        delays = self._delays.get((pid, "late"), [(until, until)])
        _, last = delays[-1]
        return _longest([*delays, (last + SLEEP_SECONDS, until)], since)


def _longest(delays, since):
    return max((ended - began for began, ended in delays if ended >= since), default=0.0)
