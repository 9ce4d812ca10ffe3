"""Runs messages in the calling thread, with all hooks of a worker: what a ``TestCase`` needs, whose
transaction no other thread can see."""

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

from taskstate.middleware import FOR_STATE

from . import settings, stub

if TYPE_CHECKING:
    # pytest may load the fixtures before models can be imported.
    from taskstate.models import Task

logger = logging.getLogger(__name__)

#: More runs than any test means: an actor that sends itself on, or is retried, without end.
MAX_RUNS = 1000


def run_task(
    actor: Any,
    *args: Any,
    for_state: dict[str, Any] | None = None,
    raise_on_failure: bool = False,
    **kwargs: Any,
) -> Task:
    """Send a message to ``actor``, run it in this thread until it is finished, and return its task.

    What is delayed, retries above all, runs at once.  Other messages stay where they are, those
    included that the actor sends: ``run_messages`` runs these.  It works in a ``TestCase`` and in
    any other test, and needs no setting but a ``StubBroker``.

    Parameters:
      actor(Actor): Whom to send it to, with the arguments that follow.
      for_state(dict): As in ``send``; left out, the message is tracked with what the actor is
        declared with, or an empty dictionary.
      raise_on_failure(bool): Raise what the actor raised at last, if the task fails.

    Returns:
      Task: The row as it is in the database, whatever its status.

    Raises:
      ImproperlyConfigured: If the broker is no ``StubBroker``, or doesn't track.
      TypeError: If ``actor`` is no actor, or ``for_state`` no dictionary.
      RuntimeError: If a worker took the message first, it was not tracked, or it ran 1,000 times.
    """
    _refuse_wrong_types(actor, for_state)
    broker = stub.tracking_stub(actor.broker)
    with _in_this_thread(broker):
        message = _send(actor, args, kwargs, for_state or {})
        runs = list(_run_all(broker, lambda other: other.message_id == message.message_id))
        if not runs:
            raise RuntimeError(
                f"Message {message.message_id} of actor {actor.actor_name} is not on its queue: a "
                "worker that runs beside has taken it. Use send() and wait_for_status() there."
            )
        task = _task_of(message)
    error = runs[-1][1]
    if raise_on_failure and task.status == "failed":
        raise error or RuntimeError(
            f"Message {message.message_id} of actor {actor.actor_name} failed: {task.error}"
        )
    return task


def run_messages(broker: Broker | None = None, *, delayed: bool = True) -> list[Task]:
    """Run all messages that wait on the ``StubBroker``, in this thread, and those that are sent
    meanwhile.

    For what a view has sent, say.  Switch ``SYNCHRONOUS`` on for such tests, so that what the view
    has sent is written in their transaction as well.

    Parameters:
      broker(Broker): The broker; by default Dramatiq's global one.
      delayed(bool): Whether to run what is delayed, retries above all, and that at once.

    Returns:
      list: The task of each message that is tracked, in the order in which they first ran.

    Raises:
      ImproperlyConfigured: If the broker is no ``StubBroker``, or doesn't track.
      RuntimeError: If 1,000 messages have run, which is taken for a loop.
    """
    stub_broker = stub.tracking_stub(broker or dramatiq.get_broker())
    with _in_this_thread(stub_broker):
        runs = _run_all(stub_broker, lambda _: True, delayed=delayed)
        # A dictionary keeps their order, and each once.
        keys = dict.fromkeys(message.message_id for message, _ in runs)
        return [task for task in map(_find_task, keys) if task is not None]


# The message.


def _refuse_wrong_types(actor: Any, for_state: Any) -> None:
    if not isinstance(actor, dramatiq.Actor):
        raise TypeError(f"{actor!r} is no actor. Decorate the function with @dramatiq.actor.")
    if for_state is not None and not isinstance(for_state, dict):
        raise TypeError(f"for_state is {for_state!r}, which is no dictionary. Pass one, or none.")


def _send(
    actor: Any, args: tuple[Any, ...], kwargs: dict[str, Any], for_state: dict[str, Any]
) -> Any:
    """Send it as the project would: by keyword if the actor takes ``for_state``."""
    if FOR_STATE in inspect.signature(actor.fn).parameters:
        return actor.send(*args, **kwargs, for_state=for_state)
    return actor.send_with_options(args=args, kwargs=kwargs, for_state=for_state)


def _task_of(message: Any) -> Task:
    task = _find_task(message.message_id)
    if task is None:
        raise RuntimeError(
            f"Message {message.message_id} of actor {message.actor_name} has run, and has no task. "
            'The log of "taskstate" says why.'
        )
    return task


def _find_task(message_id: str) -> Task | None:
    from taskstate.models import Task

    return Task.objects.filter(pk=message_id).first()


# A worker of one thread, the calling one.


@contextlib.contextmanager
def _in_this_thread(broker: StubBroker) -> Iterator[None]:
    """Let states be written at once and in this thread, and the test's transaction stay open."""
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
    """Let asynchronous actors run, if Dramatiq's middleware for them is there: its thread."""
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
    """Run what is wanted until nothing of it is left; yield each run's message and exception."""
    for _ in range(MAX_RUNS):
        taken = _take_next(broker, is_wanted, delayed=delayed)
        if taken is None:
            return
        # In a context of its own, as in a thread: what an actor sets there doesn't stay.
        error = contextvars.copy_context().run(_run, broker, *taken)
        yield taken[1], error
    raise RuntimeError(
        f"{MAX_RUNS:,} messages were run, which is taken for a loop: does an actor send itself on, "
        "or is it retried without a limit?"
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
    """Move the delayed message that is due first to its queue, as a worker does in time."""
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
    if taken is None:  # A worker that runs beside has it.
        return False
    consumer, message = taken
    broker.emit_before("delay_message", message)
    due = message.copy(queue_name=q_name(message.queue_name))
    due.options.pop("eta", None)
    broker.enqueue(due)
    _settle(broker, consumer, message)
    return True


def _run(broker: StubBroker, consumer: Consumer, message: Any) -> BaseException | None:
    """Do to a message what a worker does: its hooks, its actor, its acknowledgement.

    Returns what was raised.  What is meant for the test itself, an interrupt from the keyboard or a
    skip of pytest's, is raised again.
    """
    try:
        actor = broker.get_actor(message.actor_name)
    except ActorNotFound as error:
        # A worker rejects it without a hook of processing.
        logger.warning("Message %s is rejected: %s", message.message_id, error)
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
            "Message %s of actor %s raised:",
            message.message_id,
            message.actor_name,
            exc_info=error,
        )
        # In this handler, as in a worker: middleware may ask which exception is being handled.
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
