"""A transition: the status of one message at one moment, with all that is known at that moment.

A transition is immutable, and has the values of all columns.  The row of a message is a copy of its
greatest transition; see ``greater``.  This module uses no database, no thread and no clock.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, Final, NamedTuple, Optional, Protocol, Tuple, Union
from uuid import UUID

from taskstate.transitions.rank import status_of, time_of
from taskstate.transitions.status import Status

#: A primary key of the user model; None for a task without a user.
UserPk = Union[int, str, UUID, None]

#: The fields of a message as a hook has collected them: a tuple with the values of
#: ``MessageFields``, in that order.  The names are normalized; the writer normalizes the other
#: values.
#:
#: It is a plain tuple, as is a ``RawTransition``: to make a named one takes five times as long.
RawFields = Tuple[str, int, Any, str, str, str, str, str, Optional[str], Optional[str], str]


class MessageFields(NamedTuple):
    """The values that don't change while a message is processed, normalized for the columns."""

    #: The UUID of the message in its canonical form.
    message_id: str
    #: The message's own timestamp, in milliseconds since 1970.
    enqueued_at: int
    user_pk: UserPk
    actor_name: str
    #: Without the suffix of the delay queue.
    queue_name: str
    description: str
    model_name: str
    app_name: str
    #: JSON, as text.
    metadata: str | None = None
    #: The encoded message, if it is stored to be sent again.
    stored_message: str | None = None
    #: The name of the tenant; "" if there is none, and ``tenants.UNKNOWN`` if it is not known.
    tenant: str = ""


class TaskDetails(NamedTuple):
    """The details of a transition: its progress, error, result, and the time of the next run."""

    #: From 0 to 100.
    progress: float | None = None
    progress_text: str | None = None
    #: The type and the message of the last attempt's exception, in one line.
    error: str | None = None
    #: The part of the error that users may read.
    user_error: str | None = None
    traceback: str | None = None
    #: In milliseconds since 1970.
    next_attempt_at: int | None = None
    #: JSON, as text.
    result: str | None = None


NO_DETAILS = TaskDetails()


class Transition(NamedTuple):
    """One transition of one message."""

    #: See ``rank.pack_rank``.
    rank: int
    #: The number of the attempt, 1 for the first one: Dramatiq's ``retries`` + 1.
    attempt: int
    #: When the first run began, in milliseconds since 1970.  None before that, and if the message
    #: was skipped.
    started_at: int | None
    #: When it happened: ``time.monotonic()`` of this process, in seconds.  This decides whether
    #: ``clear_tasks`` ran after it.  Other processes can't compare it, so it is not stored.
    happened_at: float
    #: The transitions of one run share them.
    fields: MessageFields
    #: None if all of them would be None.
    details: TaskDetails | None = None

    @property
    def message_id(self) -> str:
        """The UUID of the message."""
        return self.fields.message_id

    @property
    def status(self) -> Status:
        """The status that this transition leads to."""
        return status_of(self.rank)

    @property
    def time(self) -> int:
        """When it happened, by this host's clock, in milliseconds since 1970."""
        return time_of(self.rank)


class DeferredTransition(Protocol):
    """Waits in the buffer in place of a transition, until the writer asks for it."""

    def to_transition(self) -> RawTransition | None:
        """Return the current transition, or None if there is nothing to write."""

    def on_dropped(self) -> None:
        """Record that it was dropped because the buffer was full."""


#: A transition as a hook pushes it: a tuple with the values of ``Transition``, in that order.  Its
#: fields are raw until the writer normalizes them.
RawTransition = Tuple[
    int, int, Optional[int], float, Union[RawFields, MessageFields], Optional[TaskDetails]
]

# The indexes of values in a raw transition.
RANK: Final = 0
HAPPENED_AT: Final = 3
FIELDS: Final = 4
DETAILS: Final = 5

# The indexes of values in raw fields.
MESSAGE_ID: Final = 0
ACTOR_NAME: Final = 3
DESCRIPTION: Final = 5
METADATA: Final = 8
STORED_MESSAGE: Final = 9
TENANT: Final = 10

# Make a named tuple from a plain one.  This is faster than the constructor, which is written in
# Python.
message_fields_from: Callable[[tuple[Any, ...]], MessageFields] = functools.partial(
    tuple.__new__, MessageFields
)
transition_from: Callable[[tuple[Any, ...]], Transition] = functools.partial(
    tuple.__new__, Transition
)


def has_rare_values(transition: RawTransition) -> bool:
    """Return whether a transition has values that most transitions don't have: details, metadata,
    or the stored message.  Without them it is small."""
    fields = transition[FIELDS]
    return (
        transition[DETAILS] is not None
        or fields[METADATA] is not None
        or fields[STORED_MESSAGE] is not None
    )


def sort_key(transition: Transition) -> tuple[object, ...]:
    """Return the sort key of a transition; the greatest transition of a message is its row.

    The rank decides.  The other values follow only so that two different transitions of equal rank
    make the same row, whichever is written first.  None sorts before every value.  Only two runs of
    one stamp that begin and end in the same milliseconds can still be equal.  Then the first one
    that is written stays, with its own details.
    """
    fields = transition.fields
    started_at = -1 if transition.started_at is None else transition.started_at
    user = "" if fields.user_pk is None else str(fields.user_pk)
    return (
        transition.rank,
        transition.attempt,
        started_at,
        fields.enqueued_at,
        fields.actor_name,
        fields.queue_name,
        fields.description,
        fields.model_name,
        fields.app_name,
        user,
        fields.tenant,
    )


def greater(one: Transition, other: Transition) -> Transition:
    """Return the greater of two transitions.  It is commutative, associative and idempotent.

    If their ranks are equal, both must be normalized.
    """
    if one[RANK] != other[RANK]:
        return one if one[RANK] > other[RANK] else other
    return max(one, other, key=sort_key)
