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
        try:
            return execute(*arguments)
        finally:
            self._note("statement", began, time.monotonic())

    def _measure_lateness(self):
        longest = 0.0
        never = threading.Event()
        while True:
            due = time.monotonic() + SLEEP_SECONDS
            never.wait(SLEEP_SECONDS)
            now = time.monotonic()
            if now - due > longest:
                longest = now - due
                self._note("late", due, now)

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
        #: The longest statement, and how late a thread woke up at most, in seconds.
        self.longest = {"statement": 0.0, "late": 0.0}
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
                    self.longest[kind] = max(self.longest[kind], float(second) - float(first))
