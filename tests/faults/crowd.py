"""Several processes that do the same at the same time, until they are ordered to stop."""

import contextlib
import json
import subprocess
import sys
import threading

from tests.support.limits import LIMIT_SECONDS
from tests.support.processes import ROOT, environment


class Crowd:
    """Processes of one module, on the tests' tables; see ``run``.

    Parameters:
      alias(str): The database that they write to.
      module(str): What each of them runs.
      arguments(list): The arguments of each, as a list.
    """

    def __init__(self, alias, module, arguments):
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", module, *map(str, each)],
                env=environment(alias),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for each in arguments
        ]

    def __enter__(self):
        for process in self._processes:
            assert json.loads(process.stdout.readline()) == "ready"
        self._send("begin")
        return self

    def stop(self):
        """Order them to stop; return the answer of each."""
        self._send("stop")
        return [json.loads(process.stdout.readline()) for process in self._processes]

    def _send(self, word):
        for process in self._processes:
            process.stdin.write(f"{word}\n")
            process.stdin.flush()

    def __exit__(self, *error):
        for process in self._processes:
            with contextlib.suppress(BrokenPipeError):  # It has ended already.
                process.stdin.close()
        for process in self._processes:
            try:
                process.wait(LIMIT_SECONDS)
            finally:
                process.kill()
                process.wait()
                process.stdout.close()


def run(work, stopping):
    """Be one of the crowd: wait for the beginning, call ``work``, which returns when the Event
    ``stopping`` is set, and print what it returns."""

    def wait_for_stop():
        sys.stdin.readline()
        stopping.set()

    print(json.dumps("ready"), flush=True)
    sys.stdin.readline()
    threading.Thread(target=wait_for_stop, daemon=True).start()
    print(json.dumps(work()), flush=True)
