"""Where contenders meet: a database for each, a queue for this run, and processes for rounds."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

from benchmarks import servers
from benchmarks.contenders import CONTENDERS, ROOT, provide
from benchmarks.errors import BenchmarkError

VAR = ROOT / "var"
#: How long one process may take.
LIMIT_SECONDS = 1200
#: How long worker processes may take to end.
STOP_SECONDS = 60


class Arena:
    """Runs contenders' processes; leaves nothing behind when it is closed."""

    def __init__(self, *, listener=False):
        self.listener = listener
        self.tag = uuid.uuid4().hex[:8]
        self.queue = f"bench-{self.tag}"
        self.namespace = f"taskstate-bench-{self.tag}"
        VAR.mkdir(exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix="bench-", dir=VAR)
        #: (contender, kind of database) to URL.
        self._databases = {}
        self._brokers = set()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for contender, database in self._databases:
            if database != "sqlite":
                servers.drop_database(database, self.database_name(contender))
        for broker in self._brokers:
            servers.remove_queue(broker, self.namespace, self.queue)
        self._folder.cleanup()

    def database_name(self, name):
        """Return the name of a contender's database on a server."""
        return f"taskstate_bench_{CONTENDERS[name].slug}"

    def prepare(self, name, database):
        """Make a contender's database with its tables, unless that has been done."""
        if (name, database) in self._databases:
            return
        provide(CONTENDERS[name])
        if database == "sqlite":
            path = Path(self._folder.name, f"{CONTENDERS[name].slug}.sqlite3")
            url = f"sqlite:///{path}"
        else:
            url = servers.create_database(database, self.database_name(name))
        self._databases[name, database] = url
        self.run(name, "migrate", database=database)

    def run(self, name, job, *, database, broker="stub", **arguments):
        """Do a job of ``benchmarks.contender`` in a process of its own; return what it printed.

        Parameters:
          name(str): The contender.
          job(str): One of those in ``benchmarks/contender.py``.
          arguments: The job's.
        """
        process = self.start(name, job, database=database, broker=broker, **arguments)
        return self.result(process)

    def start(self, name, job, *, database, broker="stub", samples=False, **arguments):
        """Start a job of ``benchmarks.contender``; with ``samples``, time what is told of them."""
        command = [sys.executable, "-m", "benchmarks.contender", job, json.dumps(arguments)]
        return subprocess.Popen(
            command,
            env=self._environment(name, database, broker, samples=samples),
            cwd=self._folder.name,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def result(self, process):
        """Wait for a process, and return what it printed last.

        Raises:
          BenchmarkError: If it failed.
        """
        try:
            output, errors = process.communicate(timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise BenchmarkError(
                f"A contender's process took more than {LIMIT_SECONDS:,} seconds. Take fewer "
                "messages, with --messages."
            ) from None
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            raise BenchmarkError(f"A contender's process failed:\n{errors.strip()}")
        return json.loads(output.splitlines()[-1])

    @contextlib.contextmanager
    def workers(self, name, *, database, broker, processes, threads):
        """Run ``rundramatiq`` meanwhile; stop it with SIGTERM, as a service manager would."""
        command = [sys.executable, "-m", "django", "rundramatiq", "--skip-logging"]
        command += ["--processes", str(processes), "--threads", str(threads)]
        with Path(self._folder.name, "workers.log").open("w+") as log:
            process = subprocess.Popen(
                command,
                env=self._environment(name, database, broker, samples=False),
                cwd=self._folder.name,
                stdout=log,
                stderr=log,
            )
            try:
                yield
                process.terminate()
                status = process.wait(STOP_SECONDS)
            finally:
                process.kill()
                process.wait()
            if status:
                log.seek(0)
                raise BenchmarkError(f"The workers ended with status {status}:\n{log.read()}")

    def _environment(self, name, database, broker, *, samples):
        contender = CONTENDERS[name]
        self._brokers.add(broker)
        terms = {
            "apps": contender.apps,
            "middleware": [contender.middleware] if contender.middleware else [],
            "taskstate": contender.taskstate,
            "model": contender.model,
            "is_ours": contender.is_ours,
            "folder": str(contender.folder),
            "database": self._databases[name, database],
            "broker": "stub://" if broker == "stub" else servers.url(broker),
            "queue": self.queue,
            "namespace": self.namespace,
            "listener": self.listener,
            "samples": samples,
        }
        return {
            **os.environ,
            "CONTEST": json.dumps(terms),
            "DJANGO_SETTINGS_MODULE": "benchmarks.contest.settings",
            # A peer's packages come first: its taskstate is named like ours.
            "PYTHONPATH": os.pathsep.join([str(contender.folder), str(ROOT)]),
        }
