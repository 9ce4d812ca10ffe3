"""The site as a process of its own, under WSGI or ASGI, which can be stopped and started again."""

import socket
import subprocess
import sys
import threading
import time

from tests.support import servers
from tests.support.limits import LIMIT_SECONDS
from tests.support.processes import ROOT

HOST = "127.0.0.1"
COMMANDS = {
    # Insecure is what DEBUG would be: it serves the static files.
    "wsgi": ("django", "runserver", "--noreload", "--insecure", "{host}:{port}"),
    "asgi": (
        *("uvicorn", "benchmarks.demo.website.asgi:application", "--host", "{host}"),
        *("--port", "{port}"),
    ),
}


def free_port():
    with socket.create_server((HOST, 0)) as listener:
        return listener.getsockname()[1]


class Website:
    """The site on a port of its own, which stays the same when it is started again.

    Parameters:
      kind(str): How it is served: ``"wsgi"`` or ``"asgi"``.
      env(dict): Of its process.
    """

    def __init__(self, kind, env):
        self.kind = kind
        self.env = env
        self.port = free_port()
        self.process = None

    @property
    def url(self):
        return f"http://{HOST}:{self.port}"

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self.stop()

    def start(self):
        """Start it, and wait until it answers."""
        command = [part.format(host=HOST, port=self.port) for part in COMMANDS[self.kind]]
        with (servers.FOLDER / f"{self.kind}.log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command], env=self.env, cwd=ROOT, stdout=log, stderr=log
            )
        deadline = time.monotonic() + LIMIT_SECONDS
        pause = threading.Event()
        while not self._answers():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            pause.wait(0.05)

    def stop(self):
        """End it, with all its connections."""
        self.process.kill()
        self.process.wait()

    def log(self):
        return (servers.FOLDER / f"{self.kind}.log").read_text()

    def _answers(self):
        try:
            socket.create_connection((HOST, self.port), timeout=1).close()
        except OSError:
            return False
        return True
