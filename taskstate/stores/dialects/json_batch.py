"""Databases without arrays: a batch is sent as JSON, an array of rows."""

from __future__ import annotations

import json
import uuid
from typing import Any, Callable, Iterable

from django.db.backends.base.base import BaseDatabaseWrapper

from taskstate.stores.columns import BatchFields, Column, ColumnType, worker_name
from taskstate.stores.dialects.base import Dialect, Parameter
from taskstate.stores.rows import as_datetime
from taskstate.transitions.status import WAITING
from taskstate.transitions.transition import UserPk

_WAITING = ", ".join(f"'{status.value}'" for status in WAITING)

#: The range of a signed column of 64 bits.  JSON has larger numbers, in place of which MariaDB and
#: SQLite would store another number, without an error.
_INTEGERS = range(-(2**63), 2**63)


class JsonDialect(Dialect):
    """A dialect that sends each row as an array of its columns."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._times = _Times(connection)
        super().__init__(connection)

    def _computed_values(self, sent: dict[str, str]) -> dict[str, str]:
        return {
            "written_at": self._now(),
            "worker": f"CASE WHEN {sent['status']} IN ({_WAITING}) THEN NULL ELSE %s END",
        }

    def _parameters(self, batch: BatchFields, *, rare: bool) -> list[Parameter]:
        self._times.clear()
        columns = self._encoded(batch, rare=rare)
        return [worker_name(), json.dumps(list(zip(*columns)), ensure_ascii=False)]

    def _encoder(self, column: Column) -> Callable[[Any], Any]:
        native_uuid: bool = self._connection.features.has_native_uuid_field
        if column.type is ColumnType.TIME:
            return self._times.texts
        if column.type is ColumnType.USER_KEY:
            return _native_keys if native_uuid else _keys
        if column.type is ColumnType.UUID and not native_uuid:
            return _without_dashes
        return _as_they_are


class _Times:
    """Formats times as Django does, since the database compares them as texts.

    Django's function is slow, so it is called only once for all times in the same second.
    """

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._adapt = connection.ops.adapt_datetimefield_value
        self._seconds: dict[int, str] = {}

    def clear(self) -> None:
        """Forget the texts, since the time zone may change before the next batch."""
        self._seconds.clear()

    def texts(self, times: Iterable[int | None]) -> list[str | None]:
        """Return the texts of times, which are milliseconds since 1970."""
        return [None if time is None else self._text(time) for time in times]

    def _text(self, milliseconds: int) -> str:
        seconds, rest = divmod(milliseconds, 1000)
        text = self._seconds.get(seconds)
        if text is None:
            text = self._seconds[seconds] = str(self._adapt(as_datetime(seconds * 1000)))
        return f"{text}.{rest:03d}000" if rest else text


def _as_they_are(values: Iterable[Any]) -> Iterable[Any]:
    return values


def _without_dashes(ids: Iterable[str]) -> list[str]:
    return [each.replace("-", "") for each in ids]


def _keys(keys: Iterable[UserPk]) -> list[int | str | None]:
    """Return keys of the user model, a UUID without dashes."""
    return [key.hex if isinstance(key, uuid.UUID) else _in_range(key) for key in keys]


def _native_keys(keys: Iterable[UserPk]) -> list[int | str | None]:
    """Return keys of the user model, a UUID in its canonical form."""
    return [str(key) if isinstance(key, uuid.UUID) else _in_range(key) for key in keys]


def _in_range(key: int | str | None) -> int | str | None:
    if isinstance(key, int) and key not in _INTEGERS:
        raise OverflowError("the primary key of a user does not fit a column of 64 bits")
    return key
