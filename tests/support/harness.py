"""A broker, its middleware in a chosen order, and workers that really run."""

import time
from importlib.metadata import version

import dramatiq
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from dramatiq import middleware as dm
from dramatiq.brokers.stub import StubBroker
from dramatiq.common import dq_name

import taskstate
from taskstate.middleware import StateMiddleware
from taskstate.models import Task
from tests.support.limits import LIMIT_SECONDS

POSITIONS = ("first", "middle", "last")

#: Of a retry: at least 1 ms with the jitter of Dramatiq 1.11 too, which turns 1 into 0.
#: Where a broker loses stamps, clocks order the attempts: these must not share a millisecond.
BACKOFF_MS = {"min_backoff": 2, "max_backoff": 4}

#: Whether AgeLimit skips a message.  Before 1.13 it does what ``message.fail()``
#: does, and nothing distinguishes them.
AGE_LIMIT_SKIPS = tuple(map(int, version("dramatiq").split(".")[:2])) >= (1, 13)


class CloseConnections(dm.Middleware):
    """Closes what SYNCHRONOUS opened in Dramatiq's threads, as DbConnectionsMiddleware would."""

    def after_ack(self, broker, message):
        connections.close_all()
        for connection in connections.all():
            if "mode=memory" in str(connection.settings_dict["NAME"]):  # Django leaves it open.
                BaseDatabaseWrapper.close(connection)

    after_nack = after_ack


class InProcessBroker(StubBroker):
    """Dramatiq's, which also takes back what a stopped worker has fetched and not run."""

    def consume(self, *args, **kwargs):
        consumer = super().consume(*args, **kwargs)
        consumer.requeue = self._requeue
        return consumer

    def _requeue(self, messages):
        for message in messages:
            queue = self.queues[message.queue_name]
            queue.put(message.encode())
            queue.task_done()


class TimeLimit(dm.TimeLimit):
    """Dramatiq's, without its thread: that never ends, and after ten minutes raises in a thread
    whose run it never saw the end of.  Tests raise its exception themselves."""

    def after_process_boot(self, broker):
        """Start no thread."""


def make_broker(*others, position="last", state=None, retries=True, broker_class=InProcessBroker):
    """Return a broker with Dramatiq's usual middleware, ``others``, and ours at ``position``."""
    chain = [CloseConnections(), dm.AgeLimit(), *others]
    chain += [TimeLimit(), dm.ShutdownNotifications(), dm.Callbacks(), dm.Pipelines()]
    if retries:
        chain.append(dm.Retries(**BACKOFF_MS))
    place = {"first": 0, "middle": len(chain) // 2, "last": len(chain)}[position]
    chain.insert(place, state or StateMiddleware())
    broker = broker_class(middleware=chain)
    broker.emit_after("process_boot")
    return broker


class Workers:
    """Workers that run from here to the end of the block."""

    def __init__(self, broker, threads=2):
        self.broker = broker
        self.worker = dramatiq.Worker(broker, worker_threads=threads, worker_timeout=20)

    def __enter__(self):
        self.worker.start()
        return self

    def __exit__(self, *error):
        self.worker.stop()

    def finish(self, queue="default"):
        """Wait until both queues are empty and everything is written."""
        self.join(queue)
        assert taskstate.flush(LIMIT_SECONDS)

    def join(self, queue="default"):
        """Wait until both queues are empty."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while True:
            for name in (queue, dq_name(queue)):
                join(self.broker.queues[name], deadline)
            if not self.broker.queues[queue].unfinished_tasks:
                break


def join(queue, deadline):
    """Like ``Queue.join``, with a limit."""
    with queue.all_tasks_done:
        while queue.unfinished_tasks:
            left = deadline - time.monotonic()
            assert left > 0, "the queue isn't empty after all that time"
            queue.all_tasks_done.wait(left)


def task_of(message):
    """Return the row of a message."""
    return Task.objects.get(pk=message.message_id)
