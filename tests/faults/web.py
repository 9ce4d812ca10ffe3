"""Web servers that run ``website.py``, and clients that keep them busy."""

import http.client
import importlib.util
import os
import signal
import sys
import threading
from pathlib import Path

from tests.faults.private import HOST, START_SECONDS, PrivateServer

APPLICATION = "tests.faults.website:application"


class WebServer(PrivateServer):
    """A web server that forks its workers.

    Parameters:
      environment(dict): Of its processes.
      options(str): Of its command.
    """

    def __init__(self, environment, *options):
        super().__init__()
        self.environment = environment
        self.options = options

    def reload(self, workers):
        """Have it replace its workers, whose process ids these are."""
        self.process.send_signal(signal.SIGHUP)

    def stop(self):
        """Stop it politely, after the requests under way; see to it that this is a success."""
        process = self.process
        if process is None:
            return
        try:
            self.ask_to_stop()
            process.wait(START_SECONDS)
        finally:
            process.kill()
            self.process = None
        assert process.returncode == 0, self.log()

    def ask_to_stop(self):
        self.process.send_signal(signal.SIGTERM)


class Gunicorn(WebServer):
    """Gunicorn: the application is loaded once, then 4 workers are forked."""

    def command(self):
        assert importlib.util.find_spec("gunicorn"), "gunicorn belongs to what the drills need"
        yield from (sys.executable, "-m", "gunicorn", "--bind", f"{HOST}:{self.port}")
        yield from ("--workers", "4", "--pid", "pid", *self.options, APPLICATION)


class Uwsgi(WebServer):
    """uWSGI: the same, but by C functions that tell Python nothing of the forks."""

    def command(self):
        program = Path(sys.executable).with_name("pyuwsgi")
        assert program.exists(), "pyuwsgi belongs to what the drills need"
        yield from (program, "--http-socket", f"{HOST}:{self.port}", "--master")
        yield from ("--processes", "4", "--master-fifo", "fifo", *self.options)
        yield from ("--module", APPLICATION)

    def reload(self, workers):
        # A signal to the master would make it begin again, which its wheel can't do.
        for worker in workers:
            os.kill(worker, signal.SIGHUP)

    def ask_to_stop(self):
        # SIGTERM would cut off requests, and end a worker that is busy without its exit handlers.
        (self.folder / "fifo").write_text("q")


class Clients:
    """Threads that ask a web server for one page after the other until the end of the block."""

    def __init__(self, port, number=4):
        self.port = port
        self.number = number
        #: What was answered: pairs of the worker's process id and a message's id.
        self.answers = []
        self.failures = 0
        self._ends = threading.Event()

    def __enter__(self):
        self._threads = [threading.Thread(target=self._ask) for _ in range(self.number)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error):
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def _ask(self):
        while not self._ends.is_set():
            connection = http.client.HTTPConnection(HOST, self.port, timeout=30)
            try:
                connection.request("GET", "/")
                response = connection.getresponse()
                body = response.read().decode()
                assert response.status == 200
                pid, message_id = body.split()
                self.answers.append((int(pid), message_id))
            except (OSError, http.client.HTTPException, AssertionError, ValueError):
                self.failures += 1
                self._ends.wait(0.05)
            finally:
                connection.close()
