"""PostgreSQL: a batch travels as an array per column."""

from __future__ import annotations

from typing import Any, Callable, Iterable, Sequence

from taskstate.models import Task
from taskstate.stores.columns import BatchFields, Column, ColumnType, worker_name
from taskstate.stores.dialects.base import (
    INSERT,
    WATERMARK,
    Dialect,
    Parameter,
    assignments,
    is_greater,
)
from taskstate.stores.lock_timeout import LOCK_WAIT_SECONDS
from taskstate.transitions.rank import (
    FINISHED_PHASE,
    ORDER_MASK,
    PHASE_MASK,
    PHASE_SHIFT,
    TIME_SHIFT,
    pack_rank,
)
from taskstate.transitions.status import Status
from taskstate.utils.clock import MAX_TIME

# The parts of a rank.
_PHASE = f"(new.rank >> {PHASE_SHIFT} & {PHASE_MASK})"
_ORDER = f"(new.rank & {ORDER_MASK})"
_TIME = f"(new.rank >> {TIME_SHIFT} & {MAX_TIME})"

# As text, which drivers need not convert.
_RETURNING = "RETURNING message_id::text, stamp, rank"

_GREATER = is_greater("excluded.{}", "taskstate_task.{}", '{}::text COLLATE "C"')


class PostgreSqlDialect(Dialect):
    """PostgreSQL from 10 on, the first that unnests several arrays in step.

    The text of each array is built here, since psycopg builds it element by element, which is
    slower.
    """

    computed = Dialect.computed | {"status", "finished_at", "updated_at"}

    def _statement(self, *, returning: bool, rare: bool) -> str:
        arrays = ", ".join(
            f"unnest(%s::{self._type(column)}[]) AS {column.name}"
            for column in self.sent_columns(rare=rare)
        )
        # The limit for lock waits is set, and the watermark read, before the first row is locked.
        # The lock on the table, which a clear waits for, is acquired even before the snapshot is
        # taken.  So it has no limit: the statement waits for an ALTER TABLE as long as that takes.
        return f"""
            {INSERT}
            SELECT {self._values(rare=rare)}
            FROM (SELECT {arrays}) AS new
            WHERE (SELECT set_config('lock_timeout', '{LOCK_WAIT_SECONDS}s', true)) IS NOT NULL
                AND COALESCE(({WATERMARK}), 0) = %s
            ON CONFLICT (message_id) DO UPDATE SET {assignments("excluded.{0}")}
            WHERE {_GREATER}
            {_RETURNING if returning else ""}
        """

    def _parameters(self, batch: BatchFields, *, rare: bool) -> list[Parameter]:
        return [worker_name(), *self._encoded(batch, rare=rare)]

    def _encoder(self, column: Column) -> Callable[[Any], str]:
        return _ARRAYS[column.type]

    def _sent_value(self, column: Column, place: int) -> str:
        name = f"new.{column.name}"
        return _timestamp(name) if column.type is ColumnType.TIME else name

    def _computed_values(self, sent: dict[str, str]) -> dict[str, str]:
        return {
            "status": f"({_statuses()})[{_PHASE} * {ORDER_MASK + 1} + {_ORDER} + 1]",
            "finished_at": f"CASE WHEN {_PHASE} = {FINISHED_PHASE} THEN {_timestamp(_TIME)} END",
            "updated_at": _timestamp(_TIME),
            "written_at": self._now(),
            "worker": f"CASE WHEN {_PHASE} > 0 THEN %s END",
        }

    def _type(self, column: Column) -> str | None:
        if column.type is ColumnType.USER_KEY:
            return Task._meta.get_field("user").db_type(self._connection)
        return _TYPES[column.type]


def _timestamp(milliseconds: str) -> str:
    return f"to_timestamp({milliseconds} / 1000::float8)"


def _statuses() -> str:
    """Return an array of the statuses, by phase and order within the phase."""
    names = dict.fromkeys(range((PHASE_MASK + 1) * (ORDER_MASK + 1)), "NULL")
    for status in Status:
        rank = pack_rank(status, 0, 0)
        place = (rank >> PHASE_SHIFT) * (ORDER_MASK + 1) + (rank & ORDER_MASK)
        names[place] = f"'{status.value}'"
    return f"ARRAY[{', '.join(names.values())}]"


def _uuid_array(values: Iterable[str]) -> str:
    return "{" + ",".join(values) + "}"


def _number_array(values: Iterable[float | None]) -> str:
    # The text of a whole list takes less time than a text for each number.
    return "{" + str(list(values))[1:-1].replace("None", "NULL") + "}"


def _key_array(values: Sequence[Any]) -> str:
    """Return an array of keys of the user model, of whatever type."""
    if {*map(type, values)} <= {int, type(None)}:
        return _number_array(values)
    return _text_array([None if value is None else str(value) for value in values])


def _text_array(values: Sequence[Any]) -> str:
    try:
        return "{" + _quoted(values) + "}"
    except TypeError:  # Some are None.  A check for that would take longer than all the rest.
        return "{" + ",".join("NULL" if v is None else _quoted([v]) for v in values) + "}"


def _quoted(values: Sequence[str]) -> str:
    """Return texts as elements of an array, with commas between them."""
    joined = '","'.join(values)
    # Few texts contain either.  One check of all texts takes less time than a check of each.
    if "\\" in joined or joined.count('"') != 2 * (len(values) - 1):
        escaped = [text.replace("\\", "\\\\").replace('"', '\\"') for text in values]
        joined = '","'.join(escaped)
    return f'"{joined}"'


_TYPES = {
    ColumnType.UUID: "uuid",
    ColumnType.TEXT: "text",
    ColumnType.LONG_TEXT: "text",
    ColumnType.INTEGER: "integer",
    ColumnType.BIG_INTEGER: "bigint",
    ColumnType.FLOAT: "float8",
    ColumnType.TIME: "bigint",
    ColumnType.JSON: "jsonb",
}

_ARRAYS: dict[ColumnType, Callable[[Any], str]] = {
    ColumnType.UUID: _uuid_array,
    ColumnType.USER_KEY: _key_array,
    ColumnType.TEXT: _text_array,
    ColumnType.LONG_TEXT: _text_array,
    ColumnType.INTEGER: _number_array,
    ColumnType.BIG_INTEGER: _number_array,
    ColumnType.FLOAT: _number_array,
    ColumnType.TIME: _number_array,
    ColumnType.JSON: _text_array,
}
