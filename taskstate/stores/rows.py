"""Makes ``Task`` instances from transitions, for the ORM store and for ``task_changed``."""

from __future__ import annotations

import datetime
import json
import uuid
from typing import Any, Callable, Iterable, Sequence

from django.conf import settings
from django.utils import timezone

from taskstate.models import Task
from taskstate.stores.columns import COLUMNS, BatchFields, ColumnType
from taskstate.transitions.transition import Transition

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
_MILLISECOND = datetime.timedelta(milliseconds=1)


def as_datetime(milliseconds: int) -> datetime.datetime:
    """Return a time as ``DateTimeField`` expects it: naive if ``USE_TZ`` is off."""
    aware = _EPOCH + milliseconds * _MILLISECOND
    if settings.USE_TZ:
        return aware
    return timezone.make_naive(aware, timezone.get_default_timezone())


#: Converts the value of a column to that of its model field, for the types that need it.  None is
#: not converted.
_CONVERTERS: dict[ColumnType, Callable[[Any], object]] = {
    ColumnType.UUID: uuid.UUID,
    ColumnType.TIME: as_datetime,
    ColumnType.JSON: json.loads,
}
_NAMES = [field.attname for field in Task._meta.concrete_fields]
_COLUMNS = {column.name: column for column in COLUMNS}
#: For each field of the model: the function that returns the values of its column, and their
#: converter.  None for a field that a flush doesn't write.
_FIELDS = [
    (_COLUMNS[name].values, _CONVERTERS.get(_COLUMNS[name].type)) if name in _COLUMNS else None
    for name in _NAMES
]


def make_tasks(transitions: Sequence[Transition], alias: str) -> list[Task]:
    """Return the rows of transitions in the database ``alias``, without ``written_at``."""
    if not transitions:
        return []
    batch = BatchFields(transitions)
    unwritten = [None] * len(transitions)  # For seen_at.
    columns = [unwritten if field is None else _convert(*field, batch) for field in _FIELDS]
    return [Task.from_db(alias, _NAMES, row) for row in zip(*columns)]


def _convert(
    values_of: Callable[[BatchFields], Iterable[Any]],
    convert: Callable[[Any], object] | None,
    batch: BatchFields,
) -> Iterable[Any]:
    values = values_of(batch)
    if convert is None:
        return values
    return [None if value is None else convert(value) for value in values]
