"""Other processes, real ones: a script that runs to its end, or one that takes orders."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support import servers
from tests.support.limits import LIMIT_SECONDS

ROOT = Path(__file__).resolve().parents[2]


def environment(alias, **more):
    """Return the environment of a process of the demo project, on the tests' tables in the
    database ``alias``; ``more`` comes on top."""
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "benchmarks.demo.project.settings",
        "DATABASE": servers.database_url(alias),
        "BROKER": "stub://",
        "DEMO_VAR": str(servers.FOLDER),
        "PYTHONPATH": str(ROOT),
        **more,
    }


def run_script(code, env, limit=LIMIT_SECONDS * 2):
    """Run a script to its end; return what it printed."""
    script = start_script(code, env)
    output, errors = end_script(script, limit)
    assert script.returncode == 0, errors
    assert "Traceback" not in errors, errors
    return output


def start_script(code, env):
    """Start a script; ``end_script`` has to follow."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=env,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end_script(script, limit=LIMIT_SECONDS * 2):
    """Wait for a script's end; return what it printed, and its errors."""
    try:
        return script.communicate(timeout=limit)
    finally:
        script.kill()
        script.wait()


def is_alive(pid):
    """Return whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class LiveProcess:
    """A process that obeys orders, one JSON line each; see ``obey``.

    Parameters:
      module(str): What it runs.
      arguments(list): Of its command line.
      env(dict): Its environment.
    """

    def __init__(self, module, arguments, env):
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=env,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        assert self.read() == "ready"
        return self

    def __exit__(self, *error):
        with contextlib.suppress(BrokenPipeError):  # It has ended already.
            self.process.stdin.close()
        try:
            self.process.wait(LIMIT_SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()

    def order(self, name, **arguments):
        """Give an order, and return the answer."""
        self.process.stdin.write(json.dumps([name, arguments]) + "\n")
        self.process.stdin.flush()
        return self.read()

    def read(self):
        line = self.process.stdout.readline()
        assert line, "the process ended"
        return json.loads(line)


class SecondProcess(LiveProcess):
    """A process that tracks messages by order; see ``second_process.py``.

    Parameters:
      alias(str): The database of the tests that it writes to.
      store(str): The store that it writes through, as ``TASKSTATE["STORE"]`` names it.
      more(dict): More of its environment.
    """

    def __init__(self, alias, store="auto", **more):
        super().__init__("tests.support.second_process", [], environment(alias, **more))
        self.store = store

    def __enter__(self):
        super().__enter__()
        self.begin(store=self.store)
        return self

    def begin(self, clock=0.0, store="auto"):
        """Have it begin again, with a clock that is so many seconds ahead."""
        assert self.order("begin", clock=clock, store=store) == "begun"


def obey(orders):
    """Obey orders from standard input, each the name of a method and its arguments."""
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        print(json.dumps(getattr(orders, name)(**arguments)), flush=True)
