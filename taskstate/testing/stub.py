"""The ``StubBroker`` of a project's tests: whether it is one, and its queues."""

from __future__ import annotations

from typing import Any, Callable

from django.core.exceptions import ImproperlyConfigured
from dramatiq.broker import Broker, Consumer, MessageProxy
from dramatiq.brokers.stub import StubBroker
from dramatiq.common import q_name
from dramatiq.message import Message

from taskstate.middleware import StateMiddleware


def tracking_stub(broker: Broker) -> StubBroker:
    """Return ``broker``, if tests can run its messages.

    Raises:
      ImproperlyConfigured: If it is no ``StubBroker``, whose messages may be real ones, or doesn't
        track.
    """
    if not isinstance(broker, StubBroker):
        raise ImproperlyConfigured(
            f"The broker is a {type(broker).__name__}, and taskstate.testing runs only what is "
            "sent to a StubBroker, so that no test touches real messages. In the settings of the "
            'tests, set DRAMATIQ_BROKER["BROKER"] to "dramatiq.brokers.stub.StubBroker", and its '
            '"OPTIONS" to {}.'
        )
    if not any(isinstance(middleware, StateMiddleware) for middleware in broker.middleware):
        raise ImproperlyConfigured(
            "The broker has no StateMiddleware, so nothing is tracked. Add "
            '"taskstate.middleware.StateMiddleware" to DRAMATIQ_BROKER["MIDDLEWARE"] in the '
            "settings of the tests."
        )
    return broker


def queue_names(broker: StubBroker, *, delayed: bool) -> list[str]:
    """Return the names of the queues, or those of the queues of delayed messages."""
    return [name for name in list(broker.queues) if (name != q_name(name)) is delayed]


def peek(broker: StubBroker, queue_name: str) -> list[Message[Any]]:
    """Return the messages that wait on a queue."""
    queue = broker.queues[queue_name]
    with queue.mutex:
        return [Message.decode(data) for data in queue.queue]


def take(
    broker: StubBroker, queue_name: str, is_wanted: Callable[[Any], bool]
) -> tuple[Consumer, MessageProxy] | None:
    """Take the first wanted message off a queue, and leave the others as they were.

    Returns:
      tuple: The message, and the consumer that acknowledges it; None if there is no such message.
    """
    queue = broker.queues[queue_name]
    # One place for the message that was found, and one for the others.
    consumer = broker.consume(queue_name, prefetch=2, timeout=0)
    found: MessageProxy | None = None
    # Each of them once around, so that their order stays.
    for _ in range(queue.qsize()):
        message = next(consumer)
        if message is None:  # A worker has taken it meanwhile.
            break
        if found is None and is_wanted(message):
            found = message
        else:
            queue.put(message.encode())
            consumer.ack(message)
    return None if found is None else (consumer, found)


def empty(broker: StubBroker) -> None:
    """Drop all messages, and with them what a stopped worker has fetched and not run: whoever
    joins a queue would wait for these for ever."""
    broker.flush_all()
    for queue in broker.queues.values():
        while queue.unfinished_tasks:
            queue.task_done()
