"""A live process of the demo project: it sends tracked messages by order, as a web process would,
and works them off itself if its broker is the in-process one.

Orders and answers are lines of JSON on standard input and output.
"""

import dataclasses
import logging

import django

django.setup()

import dramatiq  # noqa: E402
from dramatiq.brokers.stub import StubBroker  # noqa: E402

import taskstate  # noqa: E402
from benchmarks.demo.project import tasks  # noqa: E402
from tests.support.processes import obey  # noqa: E402

SENDERS = {
    "succeed": tasks.succeed.send,
    "fail_once": lambda **options: tasks.fail_once.send(1, **options),
    "fail_for_good": tasks.fail_for_good.send,
}


class Records(logging.Handler):
    """Keeps what is logged of task states, from warnings on."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.seen = []

    def emit(self, record):
        self.seen.append((record.levelname, record.getMessage()))


class Orders:
    def __init__(self):
        self.records = Records()
        logging.getLogger("taskstate").addHandler(self.records)

    def send(self, **numbers):
        """Send so many messages of each kind; return their ids."""
        return {
            kind: [SENDERS[kind](for_state={}).message_id for _ in range(number)]
            for kind, number in numbers.items()
        }

    def stats(self):
        return dataclasses.asdict(taskstate.stats())

    def logged(self):
        return self.records.seen


# What the actors raise is meant to be.
logging.getLogger("dramatiq").setLevel(logging.CRITICAL)
worker = None
if isinstance(dramatiq.get_broker(), StubBroker):
    worker = dramatiq.Worker(dramatiq.get_broker(), worker_threads=4, worker_timeout=100)
    worker.start()
obey(Orders())
if worker is not None:
    worker.stop()
