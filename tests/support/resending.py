"""Stored messages, and a broker of this process that takes them."""

import json

import dramatiq
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Retries

from taskstate.middleware import StateMiddleware
from tests.support.factories import make_id


class Away(StubBroker):
    """A broker that takes nothing."""

    def enqueue(self, message, *, delay=None):
        raise OSError("no route to amqp://user:secret@host")


def use_broker(broker):
    """Yield the broker, which has one actor, while it is that of this process."""
    broker.middleware.clear()
    broker.add_middleware(Retries(max_retries=1, min_backoff=1, max_backoff=1))
    broker.add_middleware(StateMiddleware())
    before = dramatiq.get_broker()
    dramatiq.set_broker(broker)
    dramatiq.actor(lambda *args, **kwargs: None, actor_name="act", queue_name="q", broker=broker)
    yield broker
    dramatiq.set_broker(before)
    broker.close()


def stored(**values):
    fields = {
        "queue_name": "q",
        "actor_name": "act",
        "args": [1, "Grüße"],
        "kwargs": {"for_state": {"description": "again"}},
        "options": {},
        "message_id": make_id(1),
        "message_timestamp": 1,
    }
    return json.dumps({**fields, **values})
