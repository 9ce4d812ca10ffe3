"""Send a task again, as a new message with the actor and the arguments of its stored message.

The module is not called ``resend``, since ``taskstate.resend`` is the function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterator

import dramatiq
from django.db.models import Max
from django.utils.translation import gettext as _
from dramatiq.common import q_name
from dramatiq.encoder import JSONEncoder
from dramatiq.errors import ActorNotFound

from taskstate import conf, tenants
from taskstate.conf import TENANT
from taskstate.tracking.options import STAMP_OPTION, UsedStamp
from taskstate.transitions import sanitize
from taskstate.transitions.status import Status
from taskstate.utils.pipelines import CALLBACKS_OPTION, followers

if TYPE_CHECKING:  # Models can't be imported before the apps are ready.
    from taskstate.models import Task

__all__ = ["BrokerUnavailableError", "ResendError", "resend"]

#: The options that the last run has left.  So have those that begin with ``_OUR_PREFIX``.
_OPTIONS_OF_A_RUN = frozenset(
    {"eta", "redis_message_id", "requeue_timestamp", "retries", "traceback"}
)
_OUR_PREFIX = "taskstate_"

#: The options by which Dramatiq counts a message as completed in its group.
_OPTIONS_OF_A_GROUP = frozenset({CALLBACKS_OPTION, "group_completion_uuid"})


class ResendError(Exception):
    """A task can't be sent again.  The text says why, in the active language."""


class BrokerUnavailableError(ResendError):
    """The broker did not accept the message.  The ``__cause__`` is its error."""


def resend(task: Task) -> dramatiq.Message[Any]:
    """Send a new message with the actor, the arguments and the options of a task's stored message.

    The new message has its own id and timestamp, is sent without a delay, and is tracked.  It goes
    to the queue of the stored message, or to the queue of the actor if this process does not know
    the other one.  Options that the last run has left are removed.  A message of a group counts
    for its group only if the first message has failed or was skipped.

    The messages that follow it in a pipeline, or as callbacks of a group, keep their ids.  If they
    were sent before, their new states replace the old ones.

    Parameters:
      task(Task): A task with a ``stored_message``, in any status.

    Raises:
      ResendError: If the message was not stored or can't be read, if this process does not know its
        actor, or if Dramatiq's encoder is neither its ``JSONEncoder`` nor listed in
        ``TASKSTATE["TRUSTED_ENCODERS"]``.
      BrokerUnavailableError: If the broker did not accept the new message.

    Returns:
      Message: The new message, as it was enqueued.
    """
    broker = dramatiq.get_broker()
    stored = _decode(task.stored_message)
    actor = _find_actor(broker, stored.actor_name)
    options = _options_to_keep(stored.options, task.status)
    _stamp_above(task, options)
    queue_name = q_name(stored.queue_name)
    message: dramatiq.Message[Any] = dramatiq.Message(
        queue_name=queue_name if queue_name in broker.get_declared_queues() else actor.queue_name,
        actor_name=stored.actor_name,
        args=tuple(stored.args),
        kwargs=stored.kwargs,
        options=options,
    )
    if task.tenant or TENANT.function is not None:
        message.options[tenants.OPTION] = task.tenant
    return _enqueue(broker, message)


def _find_actor(broker: dramatiq.Broker, name: str) -> dramatiq.Actor[Any, Any]:
    try:
        return broker.get_actor(name)
    except ActorNotFound as error:
        # JSON can hold characters that a page can't.
        name = sanitize.clean_text(name, sanitize.ACTOR_NAME_LENGTH)
        text = _(
            "This process doesn't know the actor %(actor)s. Import the module that declares it."
        ) % {"actor": name}
        raise ResendError(text) from error


def _enqueue(broker: dramatiq.Broker, message: dramatiq.Message[Any]) -> dramatiq.Message[Any]:
    try:
        return broker.enqueue(message)
    except Exception as error:
        raise BrokerUnavailableError(
            _(
                "The broker did not accept the message (%(error)s). Try again when the broker is "
                "available."
            )
            % {"error": type(error).__name__}
        ) from error


def _decode(text: str | None) -> dramatiq.Message[Any]:
    if not text:
        raise ResendError(
            _(
                "Its message was not stored. Set TASKSTATE['KEEP_MESSAGE'] to store those of "
                "future tasks."
            )
        )
    _check_encoder()
    try:
        message: dramatiq.Message[Any] = dramatiq.Message.decode(text.encode())
    except Exception as error:  # DecodeError, or anything that the project's own encoder raises.
        raise ResendError(_("Its stored message can't be read.")) from error
    if not (
        isinstance(message.actor_name, str)
        and isinstance(message.queue_name, str)
        and isinstance(message.kwargs, dict)
        and isinstance(message.options, dict)
    ):
        raise ResendError(_("Its stored message can't be read."))
    return message


def _check_encoder() -> None:
    """Check that Dramatiq's encoder can safely decode any text in the table.

    Some encoders, such as ``PickleEncoder``, run code that the text names.  A subclass of
    Dramatiq's ``JSONEncoder`` may decode in its own way, so it must be listed as well.

    Raises:
      ResendError: If the encoder is neither ``JSONEncoder`` nor listed in ``TRUSTED_ENCODERS``.
    """
    encoder = type(dramatiq.get_encoder())
    if encoder is JSONEncoder or encoder in conf.trusted_encoders():
        return
    raise ResendError(
        _(
            "Dramatiq's encoder is %(encoder)s, which may not be safe for stored messages. If it "
            "is safe, add it to TASKSTATE['TRUSTED_ENCODERS']."
        )
        % {"encoder": f"{encoder.__module__}.{encoder.__qualname__}"}
    )


def _options_to_keep(options: dict[str, Any], status: str) -> dict[str, Any]:
    dropped = _OPTIONS_OF_A_RUN
    if status not in {Status.FAILED, Status.SKIPPED}:
        dropped |= _OPTIONS_OF_A_GROUP
    return {
        name: value
        for name, value in options.items()
        if name not in dropped and not name.startswith(_OUR_PREFIX)
    }


def _stamp_above(task: Task, options: dict[str, Any]) -> None:
    """Stamp a message, and all that follow it, above the stamps of their existing rows.

    Their new states are then newer than the old ones, whatever the clocks of the hosts say.  The
    stamps are marked as used, so that each message gets a stamp of its own when it is enqueued.
    """
    all_followers = list(_all_followers(options))
    keys = [key for key in map(_message_id_of, all_followers) if key is not None]
    rows = type(task).objects.filter(pk__in=keys)  # An empty list makes no query.
    newest = rows.aggregate(newest=Max("stamp"))["newest"] or 0
    for each in (options, *(follower["options"] for follower in all_followers)):
        each[STAMP_OPTION] = UsedStamp((max(task.stamp, newest),))


def _all_followers(options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the messages that follow a message, the messages that follow these, and so on."""
    # Not recursive: messages can be nested deeper than Python's recursion limit.
    waiting = [options]
    while waiting:
        for follower in followers(waiting.pop()):
            yield follower
            waiting.append(follower["options"])


def _message_id_of(message: dict[str, Any]) -> str | None:
    try:
        return sanitize.clean_message_id(message.get("message_id"))
    except ValueError:
        return None
