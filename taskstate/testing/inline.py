"""Running messages in the calling thread, with all hooks of a worker.

A ``TestCase`` needs this, since no other thread sees what it writes in its transaction.
"""

from __future__ import annotations

import contextlib
import contextvars
import inspect
import logging
from typing import TYPE_CHECKING, Any, Callable, Iterator
from unittest import mock

import dramatiq
from django.db import connections
from dramatiq.broker import Broker, Consumer, MessageProxy
from dramatiq.brokers.stub import StubBroker
from dramatiq.common import q_name
from dramatiq.errors import ActorNotFound
from dramatiq.middleware import Interrupt, SkipMessage

from taskstate.testing import settings, stub
from taskstate.testing.rows import find_task
from taskstate.tracking.for_state import FOR_STATE

if TYPE_CHECKING:
    # pytest may load the fixtures before models can be imported.
    from taskstate.models import Task

logger = logging.getLogger(__name__)

#: More runs than a test can mean: an actor sends itself again, or is retried, without end.
MAX_RUNS = 1000


def run_task(
    actor: Any,
    *args: Any,
    for_state: dict[str, Any] | None = None,
    raise_on_failure: bool = False,
    **kwargs: Any,
) -> Task:
    """Send a message to ``actor``, run it in this thread until it is finished, and return its task.

    Retries and other delays run at once.  Other messages stay in their queues, including those
    that the actor sends: use ``run_messages`` for them.  It works in a ``TestCase`` and in any
    other test, and needs no other setting than a ``StubBroker``.

    Parameters:
      actor(Actor): The actor to send the message to, with the arguments that follow.  It may be
        class-based (a subclass of ``dramatiq.GenericActor``).
      for_state(dict): As in ``send``.  By default, the message is tracked with the dictionary that
        the actor is declared with, or an empty one.
      raise_on_failure(bool): If the task fails, raise the last exception of the actor.

    Returns:
      Task: The row as it is in the database, whatever its status.

    Raises:
      ImproperlyConfigured: If the broker is not a ``StubBroker``, or has no ``StateMiddleware``.
      TypeError: If ``actor`` is not an actor, or ``for_state`` is not a dictionary.
      RuntimeError: If a worker took the message first, it was not tracked, or it ran 1,000 times.
    """
    actor = _as_actor(actor)
    _refuse_wrong_for_state(for_state)
    broker = stub.tracking_stub(actor.broker)
    with _in_this_thread(broker):
        message = _send(actor, args, kwargs, for_state or {})
        runs = list(_run_all(broker, lambda other: other.message_id == message.message_id))
        if not runs:
            raise RuntimeError(
                f"Message {message.message_id} of actor {actor.actor_name} is not on its queue: a "
                "running worker has taken it. Use send() and wait_for_status() with a worker."
            )
        task = _task_of(message)
    error = runs[-1][1]
    if raise_on_failure and task.status == "failed":
        raise error or RuntimeError(
            f"Message {message.message_id} of actor {actor.actor_name} failed: {task.error}"
        )
    return task


def run_messages(broker: Broker | None = None, *, delayed: bool = True) -> list[Task]:
    """Run all messages in the queues of a ``StubBroker`` in this thread, and those that are sent
    meanwhile.

    Use it, for example, for messages that a view has sent.  Set ``SYNCHRONOUS`` to ``True`` for
    such tests, so that their tasks are written in the transaction of the test as well.

    Parameters:
      broker(Broker): The broker; by default Dramatiq's global one.
      delayed(bool): Whether to run delayed messages, including retries, at once.

    Returns:
      list: The task of each message that is tracked, in the order in which they first ran.

    Raises:
      ImproperlyConfigured: If the broker is not a ``StubBroker``, or has no ``StateMiddleware``.
      RuntimeError: If 1,000 messages have run, which is considered a loop.
    """
    stub_broker = stub.tracking_stub(broker or dramatiq.get_broker())
    with _in_this_thread(stub_broker):
        runs = _run_all(stub_broker, lambda _: True, delayed=delayed)
        # A dictionary keeps their order, and each once.
        keys = dict.fromkeys(message.message_id for message, _ in runs)
        return [task for task in map(find_task, keys) if task is not None]


# The message.


def _as_actor(actor: Any) -> dramatiq.Actor[Any, Any]:
    # Dramatiq replaces a class-based actor by an instance that has its actor as an attribute. Here
    # getattr won't do: in dramatiq 1, on an abstract class, it recurses without end.
    found = vars(actor).get("__actor__") if isinstance(actor, dramatiq.GenericActor) else actor
    if not isinstance(found, dramatiq.Actor):
        raise TypeError(
            f"{actor!r} is not an actor. Decorate the function with @dramatiq.actor, or pass a "
            "subclass of dramatiq.GenericActor that is not abstract."
        )
    return found


def _refuse_wrong_for_state(for_state: Any) -> None:
    if for_state is not None and not isinstance(for_state, dict):
        raise TypeError(
            f"for_state is {for_state!r}, which is not a dictionary. Pass a dictionary, or omit it."
        )


def _send(
    actor: Any, args: tuple[Any, ...], kwargs: dict[str, Any], for_state: dict[str, Any]
) -> Any:
    """Send a message as a project would: by keyword if the actor takes ``for_state``."""
    if _takes_for_state(actor.fn):
        return actor.send(*args, **kwargs, for_state=for_state)
    return actor.send_with_options(args=args, kwargs=kwargs, for_state=for_state)


def _takes_for_state(function: Any) -> bool:
    functions = [function]
    original = inspect.unwrap(function)
    if isinstance(original, dramatiq.GenericActor):
        # Its __call__ takes any arguments, and passes them to perform(). In dramatiq 1, the object
        # itself has no signature.
        functions = [type(original).__call__, original.perform]
    return any(FOR_STATE in inspect.signature(each).parameters for each in functions)


def _task_of(message: Any) -> Task:
    task = find_task(message.message_id)
    if task is None:
        raise RuntimeError(
            f"Message {message.message_id} of actor {message.actor_name} has run, but has no task. "
            'The log of "taskstate" has the reason.'
        )
    return task


# A worker of one thread, the calling one.


@contextlib.contextmanager
def _in_this_thread(broker: StubBroker) -> Iterator[None]:
    """Write states at once and in this thread, and keep the test's transaction open."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(settings.synchronous(value=True))
        for connection in connections.all():
            if connection.in_atomic_block:
                # django_dramatiq's DbConnectionsMiddleware would close it before each message.
                stack.enter_context(mock.patch.object(connection, "close"))
        stack.enter_context(_event_loop(broker))
        yield


@contextlib.contextmanager
def _event_loop(broker: StubBroker) -> Iterator[None]:
    """Run the event loop's thread, if the broker has Dramatiq's middleware for async actors."""
    loops: list[Any] = [one for one in broker.middleware if type(one).__name__ == "AsyncIO"]
    for middleware in loops:
        middleware.before_worker_boot(broker, None)
    try:
        yield
    finally:
        for middleware in loops:
            middleware.after_worker_shutdown(broker, None)


def _run_all(
    broker: StubBroker, is_wanted: Callable[[Any], bool], *, delayed: bool = True
) -> Iterator[tuple[Any, BaseException | None]]:
    """Run the wanted messages until none is left; yield the message and exception of each run."""
    for _ in range(MAX_RUNS):
        taken = _take_next(broker, is_wanted, delayed=delayed)
        if taken is None:
            return
        # In a context of its own, as in a thread: context variables that an actor sets don't stay.
        error = contextvars.copy_context().run(_run, broker, *taken)
        yield taken[1], error
    raise RuntimeError(
        f"{MAX_RUNS:,} messages were run, which is considered a loop. Check whether an actor sends "
        "itself again or is retried without a limit."
    )


def _take_next(
    broker: StubBroker, is_wanted: Callable[[Any], bool], *, delayed: bool
) -> tuple[Consumer, MessageProxy] | None:
    for name in stub.queue_names(broker, delayed=False):
        taken = stub.take(broker, name, is_wanted)
        if taken is not None:
            return taken
    if delayed and _let_next_become_due(broker, is_wanted):
        return _take_next(broker, is_wanted, delayed=False)
    return None


def _let_next_become_due(broker: StubBroker, is_wanted: Callable[[Any], bool]) -> bool:
    """Move the delayed message that is due first to its queue, as a worker does when it is due."""
    waiting = [
        message
        for name in stub.queue_names(broker, delayed=True)
        for message in stub.peek(broker, name)
        if is_wanted(message)
    ]
    if not waiting:
        return False
    first = min(waiting, key=lambda message: message.options["eta"])
    taken = stub.take(broker, first.queue_name, lambda message: message.asdict() == first.asdict())
    if taken is None:  # A running worker has taken it.
        return False
    consumer, message = taken
    broker.emit_before("delay_message", message)
    due = message.copy(queue_name=q_name(message.queue_name))
    due.options.pop("eta", None)
    broker.enqueue(due)
    _settle(broker, consumer, message)
    return True


def _run(broker: StubBroker, consumer: Consumer, message: Any) -> BaseException | None:
    """Process a message as a worker does: call its hooks and its actor, and acknowledge it.

    Returns:
      BaseException: What the actor raised, or None.  Exceptions that are meant for the test itself,
      such as Ctrl-C or a skip of pytest's, are raised again.
    """
    try:
        actor = broker.get_actor(message.actor_name)
    except ActorNotFound as error:
        # A worker rejects such a message without calling the hooks around processing.
        logger.warning("Rejected message %s: %s", message.message_id, error)
        message.fail()
        message.stuff_exception(error)
        _settle(broker, consumer, message)
        return error
    raised = _process(broker, actor, message)
    _settle(broker, consumer, message)
    if raised is not None and not isinstance(raised, (Exception, Interrupt)):
        raise raised
    return raised


def _process(broker: StubBroker, actor: Any, message: Any) -> BaseException | None:
    result = None
    try:
        broker.emit_before("process_message", message)
        if not message.failed:
            result = actor(*message.args, **message.kwargs)
    except SkipMessage as skip:
        message.stuff_exception(skip)
        broker.emit_after("skip_message", message)
        return None
    except BaseException as error:
        message.stuff_exception(error)
        logger.warning(
            "Message %s of actor %s raised an exception:",
            message.message_id,
            message.actor_name,
            exc_info=error,
        )
        # Within the handler, as in a worker: middleware may use sys.exc_info().
        broker.emit_after("process_message", message, exception=error)
        return error
    broker.emit_after("process_message", message, result=result)
    return None


def _settle(broker: StubBroker, consumer: Consumer, message: Any) -> None:
    if message.failed:
        broker.emit_before("nack", message)
        consumer.nack(message)
        broker.emit_after("nack", message)
    else:
        broker.emit_before("ack", message)
        consumer.ack(message)
        broker.emit_after("ack", message)
