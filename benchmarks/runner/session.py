"""Runs contenders: each with a database of its own, and each measurement in a new process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

from benchmarks.contenders.installation import install
from benchmarks.contenders.registry import find
from benchmarks.errors import BenchmarkError
from benchmarks.paths import ROOT, VAR
from benchmarks.runner import servers
from benchmarks.runner.delay_proxy import DelayProxy

#: The time limit of one process.
LIMIT_SECONDS = 1200
#: The time limit for worker processes to stop.
STOP_SECONDS = 60


class Session:
    """The databases, the queue and the processes of a run; ``with`` removes all of them at the end.

    Parameters:
      listener(bool): Whether contenders connect a receiver to ``task_changed``.
    """

    def __init__(self, *, listener=False):
        self.listener = listener
        self.tag = uuid.uuid4().hex[:8]
        self.queue = f"bench-{self.tag}"
        self.namespace = f"taskstate-bench-{self.tag}"
        VAR.mkdir(exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix="bench-", dir=VAR)
        #: The URL of each database, by contender and kind of database.
        self._databases = {}
        #: By kind of database and milliseconds.
        self._proxies = {}
        self._brokers = set()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for proxy in self._proxies.values():
            proxy.stop()
        for contender, database in self._databases:
            if database != "sqlite":
                servers.drop_database(database, self.database_name(contender))
        for broker in self._brokers:
            servers.remove_queue(broker, self.namespace, self.queue)
        self._folder.cleanup()

    def database_name(self, name):
        """Return the name of a contender's database on a server."""
        return f"taskstate_bench_{self.tag}_{find(name).slug}"

    def prepare(self, name, database):
        """Install a contender and create its database and tables, unless that has been done."""
        if (name, database) in self._databases:
            return
        install(find(name))
        if database == "sqlite":
            path = Path(self._folder.name, f"{find(name).slug}.sqlite3")
            url = f"sqlite:///{path}"
        else:
            url = servers.create_database(database, self.database_name(name))
        self._databases[name, database] = url
        self.run(name, "migrate", database=database)

    def run(self, name, job, *, database, broker="stub", **arguments):
        """Run a job in a new process; return its result.

        Parameters:
          name(str): The name of the contender.
          job(str): A job of ``benchmarks.workload.__main__``.
          arguments: The job's arguments.
        """
        process = self.start(name, job, database=database, broker=broker, **arguments)
        return self.result(process)

    def start(
        self, name, job, *, database, broker="stub", database_delay=0, samples=False, **arguments
    ):
        """Start a job in a new process; return the process.

        Parameters:
          database_delay(float): How many milliseconds a round trip to the database takes longer.
          samples(bool): Whether to record when ``task_changed`` is sent for samples.
        """
        command = [sys.executable, "-m", "benchmarks.workload", job, json.dumps(arguments)]
        return subprocess.Popen(
            command,
            env=self._environment(name, database, broker, database_delay, samples=samples),
            cwd=self._folder.name,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def result(self, process):
        """Wait until a process ends; return the result that it printed.

        Raises:
          BenchmarkError: If the process failed or took too long.
        """
        try:
            output, errors = process.communicate(timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise BenchmarkError(
                f"A contender's process took more than {LIMIT_SECONDS:,} seconds. Send fewer "
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
        """Run ``rundramatiq`` during the block; stop it with SIGTERM, as a service manager
        would."""
        command = [sys.executable, "-m", "django", "rundramatiq", "--skip-logging"]
        command += ["--processes", str(processes), "--threads", str(threads)]
        with Path(self._folder.name, "workers.log").open("w+") as log:
            process = subprocess.Popen(
                command,
                env=self._environment(name, database, broker, 0, samples=False),
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
                raise BenchmarkError(f"The workers exited with status {status}:\n{log.read()}")

    def _database_url(self, name, database, delay):
        url = self._databases[name, database]
        if not delay:
            return url
        if (database, delay) not in self._proxies:
            self._proxies[database, delay] = DelayProxy(url, delay)
        return self._proxies[database, delay].through(url)

    def _environment(self, name, database, broker, database_delay, *, samples):
        contender = find(name)
        self._brokers.add(broker)
        benchmark = {
            "apps": contender.apps,
            "middleware": [contender.middleware] if contender.middleware else [],
            "taskstate": contender.taskstate,
            "model": contender.model,
            "is_ours": contender.is_ours,
            "flush": contender.flush,
            "folder": str(contender.folder),
            "database": self._database_url(name, database, database_delay),
            "broker": "stub://" if broker == "stub" else servers.url(broker),
            "queue": self.queue,
            "namespace": self.namespace,
            "listener": self.listener,
            "samples": samples,
        }
        return {
            **os.environ,
            "BENCHMARK": json.dumps(benchmark),
            "DJANGO_SETTINGS_MODULE": "benchmarks.workload.settings",
            # The contender's folder comes first: another release's package is also named taskstate.
            "PYTHONPATH": os.pathsep.join([str(contender.folder), str(ROOT)]),
        }
