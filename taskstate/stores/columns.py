"""The columns that a flush writes, in one list.

The statements of all dialects, their parameters and the comparison of rows are made from this list.
To add a column:

1. Add a field to ``Task`` in ``models``, with a migration.
2. Add a field to ``TaskDetails``, or to both ``RawFields`` and ``MessageFields``, in
   ``transitions.transition``.  Set it where ``tracking`` makes these: in ``Run.details`` and
   ``options.read_details``, or in ``FieldCollector.collect``, ``_are_normal`` and
   ``_normalize_values``.
3. Add the column to ``COLUMNS``.

Further places, depending on the column:

- Rows are compared by it: ``transition.sort_key``, in the reverse order of ``COLUMNS``;
  ``COMPARED`` has it.
- It is text: its length in ``transitions.sanitize``, and ``FREE_TEXTS`` there if only people read
  it.  If it is not a detail: ``sanitize.TEXT_LENGTH``, ``PendingTask.statement_bytes`` and
  ``pending.text_bytes``.
- It is rare and not a detail: ``transition.has_rare_values``, the copy of that in
  ``TransitionQueue.push``, and ``BatchFields.have_rare_values``.
- It is of a new type: ``ColumnType``, the types and encoders of each dialect, and
  ``rows._field_values``.
"""

from __future__ import annotations

import enum
import functools
import os
import socket
from operator import attrgetter
from typing import Any, Callable, Iterable, NamedTuple

from taskstate.transitions import sanitize
from taskstate.transitions.rank import rank_below_stamp, stamp_of, status_of, time_of
from taskstate.transitions.status import FINISHED, WAITING, Status
from taskstate.transitions.transition import NO_DETAILS, MessageFields, TaskDetails, Transition


class ColumnType(enum.Enum):
    """What a column contains, and the form of its values in ``BatchFields``."""

    #: A UUID, as text in its canonical form.
    UUID = "uuid"
    #: A primary key of the user model, or None.
    USER_KEY = "user key"
    TEXT = "text"
    #: A text that may take more than 64 kB.
    LONG_TEXT = "long text"
    INTEGER = "integer"
    BIG_INTEGER = "big integer"
    FLOAT = "float"
    #: A time, in milliseconds since 1970.
    TIME = "time"
    #: A JSON value, as text.
    JSON = "json"


class Column(NamedTuple):
    """One column of the table."""

    name: str
    type: ColumnType
    #: Returns its values: one for each transition of a batch, in order.
    values: Callable[[BatchFields], Iterable[Any]]
    #: Whether it is NULL for most transitions; see ``transition.has_rare_values``.  If a batch has
    #: no rare values at all, these columns are not sent, and the statement sets them to NULL.
    is_rare: bool = False
    #: Whether rows are compared by it.
    is_compared: bool = False
    #: For a column that rows are compared by and that may be NULL: the column whose value is
    #: compared in place of NULL.  NULL itself sorts before every value.
    stand_in: str | None = None


class BatchFields:
    """The transitions of a batch, field by field: each attribute has one value per transition.

    This is faster than one object per transition.
    """

    def __init__(self, transitions: Iterable[Transition]) -> None:
        self.transition: Any = Transition(*_by_field(transitions))
        self.fields: Any = MessageFields(*_by_field(self.transition.fields))

    @property
    def have_rare_values(self) -> bool:
        """Whether any of them has rare values; see ``transition.has_rare_values``."""
        rare = (self.transition.details, self.fields.metadata, self.fields.stored_message)
        return any(values.count(None) < len(values) for values in rare)

    @functools.cached_property
    def details(self) -> Any:
        """The details of the transitions; None for each value that is missing."""
        return TaskDetails(*_by_field(each or NO_DETAILS for each in self.transition.details))

    @functools.cached_property
    def statuses(self) -> list[Status]:
        """The statuses, as members of ``Status``."""
        return list(map(status_of, self.transition.rank))

    @property
    def status_names(self) -> list[str]:
        """The statuses, as text."""
        return [status.value for status in self.statuses]

    @functools.cached_property
    def times(self) -> list[int]:
        """When each transition happened."""
        return list(map(time_of, self.transition.rank))

    @property
    def finished_at(self) -> list[int | None]:
        """When each task was finished, or None."""
        pairs = zip(self.statuses, self.times)
        return [time if status in FINISHED else None for status, time in pairs]

    @property
    def stamps(self) -> Iterable[int]:
        """The stamp of each transition, from its rank."""
        return map(stamp_of, self.transition.rank)

    @property
    def ranks(self) -> Iterable[int]:
        """The ranks without their stamps."""
        return map(rank_below_stamp, self.transition.rank)

    @property
    def workers(self) -> list[str | None]:
        """The name of this process, or None for each task that waits."""
        name = worker_name()
        return [None if status in WAITING else name for status in self.statuses]

    @property
    def written_at(self) -> list[None]:
        """None: the statement sets it, by the database's clock."""
        return [None] * len(self.transition.rank)


def _by_field(tuples: Iterable[Any]) -> Any:
    return zip(*tuples)


def worker_name() -> str:
    """Return the name of this process: its host and process id."""
    return _worker_name(os.getpid())


@functools.lru_cache(maxsize=1)
def _worker_name(pid: int) -> str:
    suffix = f":{pid}"
    host = sanitize.clean_text(socket.gethostname(), sanitize.WORKER_LENGTH - len(suffix))
    return host + suffix


def _rare(name: str, type_: ColumnType, part: str = "details") -> Column:
    return Column(name, type_, attrgetter(f"{part}.{name}"), is_rare=True)


def _compared(name: str, type_: ColumnType, source: str, stand_in: str | None = None) -> Column:
    return Column(name, type_, attrgetter(source), is_compared=True, stand_in=stand_in)


KEY = Column("message_id", ColumnType.UUID, attrgetter("fields.message_id"))

#: All columns that are written.  Those that rows are compared by come last, from the least
#: significant to the most.  MariaDB assigns the columns one after the other.  For each, it compares
#: the rows again, with the values that it has assigned so far.  In this order that is correct.  If
#: the columns that are not assigned yet differ, they decide, as they did at first.  If they are
#: equal, an assignment changes nothing.
COLUMNS = (
    KEY,
    Column("status", ColumnType.TEXT, attrgetter("status_names")),
    Column("finished_at", ColumnType.TIME, attrgetter("finished_at")),
    Column("updated_at", ColumnType.TIME, attrgetter("times")),
    Column("written_at", ColumnType.BIG_INTEGER, attrgetter("written_at")),
    Column("worker", ColumnType.TEXT, attrgetter("workers")),
    _rare("progress", ColumnType.FLOAT),
    _rare("progress_text", ColumnType.TEXT),
    _rare("error", ColumnType.TEXT),
    _rare("user_error", ColumnType.TEXT),
    _rare("traceback", ColumnType.TEXT),
    _rare("next_attempt_at", ColumnType.TIME),
    _rare("result", ColumnType.JSON),
    _rare("metadata", ColumnType.JSON, part="fields"),
    _rare("stored_message", ColumnType.LONG_TEXT, part="fields"),
    _compared("tenant", ColumnType.TEXT, "fields.tenant"),
    _compared("user_id", ColumnType.USER_KEY, "fields.user_pk"),
    _compared("app_name", ColumnType.TEXT, "fields.app_name"),
    _compared("model_name", ColumnType.TEXT, "fields.model_name"),
    _compared("description", ColumnType.TEXT, "fields.description"),
    _compared("queue_name", ColumnType.TEXT, "fields.queue_name"),
    _compared("actor_name", ColumnType.TEXT, "fields.actor_name"),
    _compared("enqueued_at", ColumnType.TIME, "fields.enqueued_at"),
    _compared("started_at", ColumnType.TIME, "transition.started_at", stand_in="enqueued_at"),
    _compared("attempt", ColumnType.INTEGER, "transition.attempt"),
    _compared("rank", ColumnType.BIG_INTEGER, "ranks"),
    _compared("stamp", ColumnType.BIG_INTEGER, "stamps"),
)

#: The columns that rows are compared by, the most significant one first.  This is the order of
#: ``transition.sort_key``.
COMPARED = tuple(column for column in reversed(COLUMNS) if column.is_compared)
