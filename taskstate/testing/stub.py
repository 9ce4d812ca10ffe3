"""The ``StubBroker`` of a project's tests, and its queues."""

from __future__ import annotations

from typing import Any, Callable

from django.core.exceptions import ImproperlyConfigured
from dramatiq.broker import Broker, Consumer, MessageProxy
from dramatiq.brokers.stub import StubBroker
from dramatiq.common import q_name
from dramatiq.message import Message

from taskstate.middleware import StateMiddleware


def tracking_stub(broker: Broker) -> StubBroker:
    """Return ``broker`` if tests can run its messages.

    Raises:
      ImproperlyConfigured: If it is not a ``StubBroker`` and may have real messages, or if it has
        no ``StateMiddleware``.
    """
    if not isinstance(broker, StubBroker):
        raise ImproperlyConfigured(
            f"The broker is a {type(broker).__name__}, but taskstate.testing only runs messages of "
            "a StubBroker, so that no test processes real messages. In the settings of the tests, "
            'set DRAMATIQ_BROKER["BROKER"] to "dramatiq.brokers.stub.StubBroker", and '
            'DRAMATIQ_BROKER["OPTIONS"] to {}.'
        )
    if not any(isinstance(middleware, StateMiddleware) for middleware in broker.middleware):
        raise ImproperlyConfigured(
            "The broker has no StateMiddleware, so no task is tracked. Add "
            '"taskstate.middleware.StateMiddleware" to DRAMATIQ_BROKER["MIDDLEWARE"] in the '
            "settings of the tests."
        )
    return broker


def queue_names(broker: StubBroker, *, delayed: bool) -> list[str]:
    """Return the names of the queues of delayed messages, or those of all other queues."""
    return [name for name in list(broker.queues) if (name != q_name(name)) is delayed]


def peek(broker: StubBroker, queue_name: str) -> list[Message[Any]]:
    """Return the messages in a queue, without removing them."""
    queue = broker.queues[queue_name]
    with queue.mutex:
        return [Message.decode(data) for data in queue.queue]


def take(
    broker: StubBroker, queue_name: str, is_wanted: Callable[[Any], bool]
) -> tuple[Consumer, MessageProxy] | None:
    """Take the first wanted message from a queue, and leave the others in their order.

    Returns:
      tuple: The consumer that acknowledges the message, and the message; None if there is none.
    """
    queue = broker.queues[queue_name]
    # Prefetch one message to keep, and one more to look at.
    consumer = broker.consume(queue_name, prefetch=2, timeout=0)
    found: MessageProxy | None = None
    # Each message is put back once, so that their order stays the same.
    for _ in range(queue.qsize()):
        message = next(consumer)
        if message is None:  # A worker has taken it in the meantime.
            break
        if found is None and is_wanted(message):
            found = message
        else:
            queue.put(message.encode())
            consumer.ack(message)
    return None if found is None else (consumer, found)


def empty(broker: StubBroker) -> None:
    """Drop all messages, including those that a stopped worker has fetched but not run: joining a
    queue would wait for these forever."""
    broker.flush_all()
    for queue in broker.queues.values():
        while queue.unfinished_tasks:
            queue.task_done()
