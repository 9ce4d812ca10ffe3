"""Real workers, ``rundramatiq``, on a queue of a test's own."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid

from django.db import close_old_connections

from taskstate.models import Task
from tests.support import servers
from tests.support.limits import LIMIT_SECONDS
from tests.support.needs import need
from tests.support.processes import ROOT, run_script

SETUP = """
import django
django.setup()
import logging
logging.basicConfig()
import os, sys, taskstate
from benchmarks.demo.project import tasks
"""

MIGRATE = (
    SETUP
    + """
from django.core.management import call_command
call_command('migrate', verbosity=0)
"""
)

SEND = (
    SETUP
    + """
for number in range({succeed}):
    tasks.succeed.send(for_state={'description': f'succeed {number}'})
for number in range({fail_once}):
    tasks.fail_once.send(1, for_state={'description': f'fail_once {number}'})
for number in range({fail_for_good}):
    tasks.fail_for_good.send(for_state={'description': f'fail_for_good {number}'})
"""
)


def send(env, **numbers):
    """Send so many messages of each kind from a process of their own."""
    code = SEND
    for name in ("succeed", "fail_once", "fail_for_good"):
        code = code.replace("{%s}" % name, str(numbers.get(name, 0)))  # noqa: UP031
    run_script(code, env)


#: As Dramatiq's command line logs.
READY = r"\[PID (\d+)\] .*Worker process is ready for action"
RECORD = r"\[PID (\d+)\] \[[^]]*\] \[taskstate[.\w]*\] \[(\w+)\]"


class Rundramatiq:
    """Real workers: ``manage.py rundramatiq``, stopped with SIGTERM.

    Parameters:
      env(dict): The environment, from ``processes.environment``.
      options(str): Of the command: ``"--processes", "2"``.
    """

    def __init__(self, env, *options):
        #: With what they are expected to end.
        self.exit_status = 0
        self.log = tempfile.TemporaryFile("w+", dir=servers.FOLDER)  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "django", "rundramatiq", *options],
            env=env,
            cwd=ROOT,
            stdout=self.log,
            stderr=self.log,
            # A group of its own, which can be killed as a whole.
            start_new_session=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        try:
            self.stop()
        finally:
            self.log.close()

    def stop(self):
        """Stop them as a service manager would, and wait for that."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(LIMIT_SECONDS * 2)
            assert status == self.exit_status, self.output()[-4000:]
        finally:
            self.kill()

    def kill(self):
        """Kill all of them at once."""
        with contextlib.suppress(ProcessLookupError):  # They have ended.
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def ready(self):
        """Return the ids of the worker processes that were ready so far."""
        return [int(pid) for pid in re.findall(READY, self.output())]

    def records(self):
        """Return what was logged of task states so far, one (process id, level) each."""
        return [(int(pid), level) for pid, level in re.findall(RECORD, self.output())]

    def output(self):
        """Return what they have logged so far."""
        # Not by seek: the file's position is theirs as well.
        return os.pread(self.log.fileno(), os.fstat(self.log.fileno()).st_size, 0).decode()


def wait_until(condition, limit=LIMIT_SECONDS * 4):
    """Look into the table until it is so; other processes can't set an Event here."""
    deadline = time.monotonic() + limit
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not after {limit} seconds: {counts()}"
        pause.wait(0.05)
        close_old_connections()


def counts():
    found = {}
    for status in Task.objects.values_list("status", flat=True):
        found[status] = found.get(status, 0) + 1
    return found


@contextlib.contextmanager
def queue_of_its_own(kind):
    """Return the environment for a broker, ``"redis"`` or ``"rabbitmq"``, with a new queue; remove
    that in the end."""
    need(kind)
    queue = f"taskstate-tests-{uuid.uuid4().hex[:8]}"
    # A worker that stops leaves some messages to be given back by Redis's maintenance, which runs
    # now and then for workers that were last seen a minute ago: here it runs often, and soon.
    options = {"heartbeat_timeout": 5000, "maintenance_chance": 100_000}
    if kind == "rabbitmq":
        # Without it, what a process publishes right before it ends, or is killed, may get lost: the
        # broker may never have read it.
        options = {"confirm_delivery": True}
    try:
        yield {
            "BROKER": servers.url(kind),
            "DEMO_BROKER_OPTIONS": json.dumps(options),
            "DEMO_QUEUE": queue,
        }
    finally:
        _remove(kind, queue)


def close(broker):
    """Close a broker that this process has sent by, with its connections: ``RedisBroker.close``
    leaves them to the garbage collector."""
    client = getattr(broker, "client", None)
    if client is not None:
        client.connection_pool.disconnect()
    broker.close()


def waiting(kind, queue):
    """Return how many messages a queue holds, delayed ones included: on Redis with those that
    are fetched and not acknowledged, on RabbitMQ without."""
    names = (queue, f"{queue}.DQ")
    if kind == "redis":
        import redis

        client = redis.Redis.from_url(servers.url("redis"))
        held = sum(client.hlen(f"dramatiq:{name}.msgs") for name in names)
        client.close()
        return held
    import pika

    with pika.BlockingConnection(pika.URLParameters(servers.url("rabbitmq"))) as connection:
        channel = connection.channel()
        return sum(channel.queue_declare(name, passive=True).method.message_count for name in names)


def _remove(kind, queue):
    if kind == "redis":
        import redis

        client = redis.Redis.from_url(servers.url("redis"))
        for key in client.scan_iter(f"dramatiq:*{queue}*"):
            client.delete(key)
        client.close()
    else:
        import pika

        with pika.BlockingConnection(pika.URLParameters(servers.url("rabbitmq"))) as connection:
            for name in (queue, f"{queue}.DQ", f"{queue}.XQ"):
                connection.channel().queue_delete(name)
