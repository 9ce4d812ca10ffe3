"""Send a task again: a new message with the actor and the arguments of its stored message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dramatiq
from django.utils.translation import gettext as _
from dramatiq.common import q_name
from dramatiq.encoder import PickleEncoder
from dramatiq.errors import ActorNotFound

from .transitions import Status

if TYPE_CHECKING:  # Models can't be imported before the apps are ready.
    from .models import Task

__all__ = ["BrokerUnavailableError", "SendAgainError", "send_again"]

#: What belongs to the last run, and not to what was asked for: beside all of ours.
_OPTIONS_OF_A_RUN = frozenset(
    {"eta", "redis_message_id", "requeue_timestamp", "retries", "traceback"}
)
_OUR_PREFIX = "taskstate_"

#: By these a message counts for its group: twice, if it has counted already.
_OPTIONS_OF_A_GROUP = frozenset({"group_completion_callbacks", "group_completion_uuid"})


class SendAgainError(Exception):
    """A task can't be sent again.  The text says why, in the language that is active."""


class BrokerUnavailableError(SendAgainError):
    """The broker did not take the message; it is the ``__cause__`` that says why."""


def send_again(task: Task) -> dramatiq.Message[Any]:
    """Send a new message with the actor, the arguments and the options of a task's stored message.

    It has an id and a timestamp of its own, goes out at once even if the first one was delayed, and
    is tracked like the first one.  Its queue is that of the first one, or that of the actor if this
    process doesn't know the first one's.  What the last run left in the options is not kept.  If it
    was a message of a group, it counts for the group unless the first one may have done so.

    Parameters:
      task(Task): A task that has a ``stored_message``, in whatever status.

    Raises:
      SendAgainError: If the message was not stored or can't be read, or if this process does not
        know its actor.
      BrokerUnavailableError: If the broker did not take it.

    Returns:
      Message: The new message, as it was enqueued.
    """
    broker = dramatiq.get_broker()
    stored = _decode(task.stored_message)
    try:
        actor = broker.get_actor(stored.actor_name)
    except ActorNotFound as error:
        text = _("This process doesn't know the actor %(actor)s.") % {"actor": stored.actor_name}
        raise SendAgainError(text) from error
    queue_name = q_name(stored.queue_name)
    message: dramatiq.Message[Any] = dramatiq.Message(
        queue_name=queue_name if queue_name in broker.get_declared_queues() else actor.queue_name,
        actor_name=stored.actor_name,
        args=tuple(stored.args),
        kwargs=stored.kwargs,
        options=_options_to_keep(stored.options, task.status),
    )
    try:
        return broker.enqueue(message)
    except Exception as error:
        raise BrokerUnavailableError(
            _("The broker did not take it (%(error)s).") % {"error": type(error).__name__}
        ) from error


def _decode(text: str | None) -> dramatiq.Message[Any]:
    if not text:
        raise SendAgainError(_("Its message was not stored (TASKSTATE['STORE_MESSAGE'])."))
    # To unpickle is to run whatever somebody wrote into the table.
    if isinstance(dramatiq.get_encoder(), PickleEncoder):
        raise SendAgainError(_("Dramatiq's encoder is PickleEncoder, which is not safe here."))
    try:
        message: dramatiq.Message[Any] = dramatiq.Message.decode(text.encode())
    except Exception as error:  # DecodeError, or whatever an encoder of the project's raises.
        raise SendAgainError(_("Its stored message can't be read.")) from error
    if not (
        isinstance(message.actor_name, str)
        and isinstance(message.queue_name, str)
        and isinstance(message.kwargs, dict)
        and isinstance(message.options, dict)
    ):
        raise SendAgainError(_("Its stored message can't be read."))
    return message


def _options_to_keep(options: dict[str, Any], status: str) -> dict[str, Any]:
    dropped = _OPTIONS_OF_A_RUN
    if status not in {Status.FAILED, Status.SKIPPED}:
        dropped |= _OPTIONS_OF_A_GROUP
    return {
        name: value
        for name, value in options.items()
        if name not in dropped and not name.startswith(_OUR_PREFIX)
    }
