"""Workers for the demo's messages."""

import contextlib
import subprocess
import sys

import dramatiq
from dramatiq.brokers.stub import StubBroker

import taskstate
from benchmarks.demo.console import console
from benchmarks.demo.project.recording import RecordingStateMiddleware
from benchmarks.demo.project.settings import VAR

THREADS = 8
PROCESSES = 2
THREADS_PER_PROCESS = 4
FLUSH_SECONDS = 30
STOP_SECONDS = 60


@contextlib.contextmanager
def workers():
    """Process messages during the block, and save the record of this process at its end.

    The in-process broker gets a worker in this process, any other broker ``rundramatiq``.
    """
    broker = dramatiq.get_broker()
    with worker(broker) if isinstance(broker, StubBroker) else rundramatiq():
        yield
    taskstate.flush(timeout=FLUSH_SECONDS)
    for middleware in broker.middleware:
        if isinstance(middleware, RecordingStateMiddleware):
            middleware.save()


@contextlib.contextmanager
def worker(broker):
    """Run worker threads in this process during the block."""
    worker = dramatiq.Worker(broker, worker_threads=THREADS, worker_timeout=100)
    worker.start()
    try:
        yield
    finally:
        worker.stop()


@contextlib.contextmanager
def rundramatiq():
    """Run worker processes during the block; stop them with SIGTERM, as a service manager
    would."""
    command = [sys.executable, "-m", "django", "rundramatiq"]
    command += ["--processes", str(PROCESSES), "--threads", str(THREADS_PER_PROCESS)]
    with (VAR / "workers.log").open("w") as log:
        console.print(f"$ {' '.join(command[1:])}   (log: {log.name})")
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=STOP_SECONDS)
