"""The columns of a task's row, in one list: what a flush writes.

The statements and their parameters come from this list, for each database, and so does the order by
which one row replaces another.  To add a column, add it here and to the model.
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
    """What a column holds, and how its values are given."""

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
    #: Returns its value for each transition of a batch, in order.
    values: Callable[[BatchFields], Iterable[Any]]
    #: Most transitions have no details.  Where a whole batch has none, these columns aren't sent,
    #: and the statement empties them.
    is_detail: bool = False
    #: Whether rows are compared by it.
    is_compared: bool = False
    #: For a column that rows are compared by and that may be NULL: the column whose value stands in
    #: for NULL.  NULL itself sorts before every value.
    stand_in: str | None = None


class BatchFields:
    """The transitions of a batch, field by field: each attribute holds one value per transition.

    This is faster than to look at one transition after the other.
    """

    def __init__(self, transitions: Iterable[Transition]) -> None:
        self.transition: Any = Transition(*_by_field(transitions))
        self.fields: Any = MessageFields(*_by_field(self.transition.fields))

    @functools.cached_property
    def details(self) -> Any:
        """The details of the transitions; None for each one that is missing."""
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
        """The stamps."""
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
        """Nothing: the statement sets it, by the database's clock."""
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


def _detail(name: str, type_: ColumnType, part: str = "details") -> Column:
    return Column(name, type_, attrgetter(f"{part}.{name}"), is_detail=True)


def _compared(name: str, type_: ColumnType, source: str, stand_in: str | None = None) -> Column:
    return Column(name, type_, attrgetter(source), is_compared=True, stand_in=stand_in)


KEY = Column("message_id", ColumnType.UUID, attrgetter("fields.message_id"))

#: All columns that are written.  Those that rows are compared by come last, from the least
#: significant to the most.  MariaDB assigns them one after the other, and compares anew for each,
#: with what it has assigned so far.  In this order that is right: if the columns that are still to
#: be assigned differ, they alone decide; if they don't, to assign them or not is the same.
COLUMNS = (
    KEY,
    Column("status", ColumnType.TEXT, attrgetter("status_names")),
    Column("finished_at", ColumnType.TIME, attrgetter("finished_at")),
    Column("updated_at", ColumnType.TIME, attrgetter("times")),
    Column("written_at", ColumnType.BIG_INTEGER, attrgetter("written_at")),
    Column("worker", ColumnType.TEXT, attrgetter("workers")),
    _detail("progress", ColumnType.FLOAT),
    _detail("progress_text", ColumnType.TEXT),
    _detail("error", ColumnType.TEXT),
    _detail("user_error", ColumnType.TEXT),
    _detail("traceback", ColumnType.TEXT),
    _detail("next_attempt_at", ColumnType.TIME),
    _detail("result", ColumnType.JSON),
    _detail("metadata", ColumnType.JSON, part="fields"),
    _detail("stored_message", ColumnType.LONG_TEXT, part="fields"),
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
