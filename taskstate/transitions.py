"""What happened to a message, and which of two facts about it wins.

A ``Transition`` is one immutable fact: the status of one message at one moment, with all
that was known then, so that it makes a true row on its own.  Its ``rank`` is a single
integer that orders the facts about one message; a row is the fact with the highest rank.
Nothing here touches a database, a thread or a clock.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, NamedTuple, Protocol, Union
from uuid import UUID

from django.db.models import TextChoices
from django.utils.translation import gettext_lazy as _

UserPk = Union[int, str, UUID, None]


class Status(TextChoices):
    """What a task is doing."""

    ENQUEUED = "enqueued", _("Enqueued")
    DELAYED = "delayed", _("Delayed")
    RUNNING = "running", _("Running")
    DONE = "done", _("Done")
    FAILED = "failed", _("Failed")
    SKIPPED = "skipped", _("Skipped")


RUNNING_PHASE = 1
FINISHED_PHASE = 2
#: Status to (phase, order within the phase).  A later phase of the same hop always wins;
#: the order breaks the tie of two facts of one phase in the same millisecond.
_PLACES = {
    Status.ENQUEUED: (0, 0),
    Status.DELAYED: (0, 1),
    Status.RUNNING: (RUNNING_PHASE, 0),
    Status.DONE: (FINISHED_PHASE, 0),
    Status.SKIPPED: (FINISHED_PHASE, 1),
    Status.FAILED: (FINISHED_PHASE, 2),
}
_STATUSES = {place: status for status, place in _PLACES.items()}

WAITING = (Status.ENQUEUED, Status.DELAYED)
ACTIVE = (*WAITING, Status.RUNNING)
FINISHED = (Status.DONE, Status.FAILED, Status.SKIPPED)

#: The error of a task that ``check_tasks`` has marked as failed.
LOST = "lost"

# A rank is 63 bits wide, so that it fits a signed bigint and stays positive:
#   hop (17) | phase (2) | milliseconds since 1970 (42, until 2109) | order (2)
_ORDER_BITS = 2
_TIME_BITS = 42
_PHASE_BITS = 2
_HOP_BITS = 17

TIME_SHIFT = _ORDER_BITS
PHASE_SHIFT = TIME_SHIFT + _TIME_BITS
_HOP_SHIFT = PHASE_SHIFT + _PHASE_BITS

ORDER_MASK = (1 << _ORDER_BITS) - 1
PHASE_MASK = (1 << _PHASE_BITS) - 1

MAX_TIME = (1 << _TIME_BITS) - 1
MAX_HOP = (1 << _HOP_BITS) - 1


#: Status to the rank that it has on hop 0, in 1970.  By the status's text, since the hash of an
#: enumeration's member is computed in Python.
_BASES = {status.value: phase << PHASE_SHIFT | order for status, (phase, order) in _PLACES.items()}


def pack_rank(status: Status, hop: int, time_ms: int) -> int:
    """Return the rank of ``status``, reached on hop ``hop`` at ``time_ms`` (milliseconds
    since 1970).  A hop or a time beyond its range counts as the end of the range."""
    if not 0 <= hop <= MAX_HOP:
        hop = min(max(hop, 0), MAX_HOP)
    if not 0 <= time_ms <= MAX_TIME:
        time_ms = min(max(time_ms, 0), MAX_TIME)
    return hop << _HOP_SHIFT | _BASES[status._value_] | time_ms << TIME_SHIFT


def status_of(rank: int) -> Status:
    """Return the status that ``rank`` was packed from."""
    return _STATUSES[rank >> PHASE_SHIFT & PHASE_MASK, rank & ORDER_MASK]


def is_running(rank: int) -> bool:
    """Return whether ``rank`` was packed from the status "running"."""
    return rank >> PHASE_SHIFT & PHASE_MASK == RUNNING_PHASE


def same_hop(one: int, other: int) -> bool:
    """Return whether two ranks were packed from the same hop."""
    return one >> _HOP_SHIFT == other >> _HOP_SHIFT


def time_of(rank: int) -> int:
    """Return when the transition of this rank happened, in milliseconds since 1970."""
    return rank >> TIME_SHIFT & MAX_TIME


class MessageFields(NamedTuple):
    """What doesn't change while a message is processed: as it came, until ``fitting`` makes it fit
    the columns.  What is said of the fields here holds from then on."""

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
    #: As text of JSON.
    metadata: Any = None
    #: The message as it was encoded, if it is to be stored.
    stored_message: str | None = None


class Extras(NamedTuple):
    """What few facts hold: of progress, of failures, of results and of what is still to come."""

    #: From 0 to 100.
    progress: float | None = None
    progress_text: str | None = None
    #: Type and message of the last attempt's exception, in one line.
    error: str | None = None
    traceback: str | None = None
    #: In milliseconds since 1970.
    next_attempt_at: int | None = None
    #: As text of JSON.
    result: str | None = None


NO_EXTRAS = Extras()


class Transition(NamedTuple):
    """One fact about one message, complete enough to be a row by itself."""

    rank: int
    #: How many runs came before this one: Dramatiq's ``retries``.
    attempt: int
    #: When the first run began, in milliseconds since 1970; None before it, or if skipped.
    started_at: int | None
    #: When it happened by this process's monotonic clock, in seconds: its age decides whether
    #: ``clear_tasks`` came after it.  Meaningless elsewhere, so not part of the content.
    happened_at: float
    #: Shared by the transitions of a run: a push has only to make what is new.
    fields: MessageFields
    extras: Extras | None = None

    @property
    def message_id(self) -> str:
        """The UUID of the message."""
        return self.fields.message_id

    @property
    def has_extras(self) -> bool:
        """Whether it holds anything that most facts don't."""
        fields = self.fields
        return (
            self.extras is not None
            or fields.metadata is not None
            or fields.stored_message is not None
        )

    @property
    def status(self) -> Status:
        """The status that this transition leads to."""
        return status_of(self.rank)

    @property
    def time(self) -> int:
        """When it happened, in milliseconds since 1970 by this host's clock."""
        return time_of(self.rank)


class Report(Protocol):
    """What is pushed in place of a transition that is made when the writer gets to it."""

    def report(self) -> Transition | None:
        """Return the fact as it is now, or None if there is nothing to say any more."""

    def withdraw(self) -> None:
        """Take note that it was dropped for want of room."""


#: What a hook, or an actor that tells of its progress, hands over.
Pushed = Union[Transition, Report]

#: Make one out of a plain tuple, without the call in Python that their constructors are.
fields_from: Callable[[tuple[Any, ...]], MessageFields] = functools.partial(
    tuple.__new__, MessageFields
)
transition_from: Callable[[tuple[Any, ...]], Transition] = functools.partial(
    tuple.__new__, Transition
)


def precedence(transition: Transition) -> tuple[object, ...]:
    """Return the sort key of a fact: the greatest one of a message is its row.

    Rank decides.  Content follows only so that two different facts of equal rank end in the
    same row whatever the order they are written in; None sorts before every value.  Only two runs
    of one hop that begin and end in the same milliseconds can still be equal: there the first one
    that is written stays, with its own extras.
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
    )


def newest(one: Transition, other: Transition) -> Transition:
    """Return the fact that wins.  Commutative, associative and idempotent."""
    if one.rank != other.rank:
        return one if one.rank > other.rank else other
    return max(one, other, key=precedence)
