"""The store that uses Django's ORM, and so runs on every database that the package supports: the
reference for all others."""

from __future__ import annotations

import uuid
from typing import Any, Dict, Iterable, NamedTuple, Sequence

import django
from django.db.backends.base.base import BaseDatabaseWrapper

from taskstate.models import Task
from taskstate.stores import Change, Written, lock_timeout
from taskstate.stores.base import DatabaseStore, in_portions, preparing_values
from taskstate.stores.columns import COLUMNS, COMPARED, KEY, ColumnType
from taskstate.stores.rows import make_tasks
from taskstate.transitions.pending import PendingTask

#: The columns that follow from a transition, except the key and ``written_at``.
_COLUMNS = tuple(c for c in COLUMNS if c is not KEY and c.name != "written_at")
_NAMES = tuple(column.name for column in _COLUMNS)

#: Since Django 4.1, ``bulk_create`` can update existing rows, in one statement that costs no more
#: per row than an insert.  ``bulk_update`` builds an expression per row and column.
_CAN_UPDATE_CONFLICTS = django.VERSION >= (4, 1)

Row = Dict[str, Any]


class _Comparison(NamedTuple):
    """A batch, compared with the rows that the database has."""

    #: The rows that the batch changes, or has changed already.
    changed: list[Task]
    #: Those of them that are not written yet: they are greater than the database's.
    to_update: list[Task]


class OrmStore(DatabaseStore):
    """Writes batches with ``bulk_create``, in one transaction.

    A batch takes the same number of statements whatever its size, as long as the database does not
    limit parameters.  Rows are compared in Python, while they are locked.
    """

    def _write_fenced(
        self, connection: BaseDatabaseWrapper, batch: Sequence[PendingTask]
    ) -> Written:
        with lock_timeout.transaction(connection):
            fence = self._enter_fence(connection)
            pending_tasks = {uuid.UUID(p.latest.message_id): p for p in fence.not_cleared(batch)}
            with preparing_values():
                latest = [pending.latest for pending in pending_tasks.values()]
                tasks = {task.pk: task for task in make_tasks(latest, connection.alias)}
                for task in tasks.values():
                    task.written_at = fence.database_time
                known = _lock_rows(connection, tasks)
                missing = sorted(tasks.keys() - known.keys())
                _insert(connection, [tasks[key] for key in missing])
                inserted = _lock_rows(connection, missing)
                maybe_ours = {k for k, p in pending_tasks.items() if p.maybe_committed}
                maybe_ours |= inserted.keys()
                rows = {**known, **inserted}
                changed, to_update = _compare(tasks, rows, maybe_ours)
                self._update(connection, to_update, rows)
        return Written(
            rows=len(changed),
            unchanged=len(batch) - len(changed),
            changes=[Change(task, pending_tasks[task.pk]) for task in changed],
        )

    def _update(
        self, connection: BaseDatabaseWrapper, tasks: list[Task], rows: dict[uuid.UUID, Row]
    ) -> None:
        """Update locked rows.  Only the columns that differ are assigned."""
        pairs = [(vars(task), rows[task.pk]) for task in tasks]
        differing = [
            Task._meta.get_field(column.name).name
            for column in _COLUMNS
            if any(_differs(new[column.name], old[column.name], column.type) for new, old in pairs)
        ]
        if not differing:
            return
        differing.append("written_at")
        tasks = sorted(tasks, key=lambda task: task.message_id)
        manager = Task._base_manager.using(connection.alias)
        if _CAN_UPDATE_CONFLICTS:
            # In MySQL and MariaDB no index can be named: a conflict with any unique one updates.
            key = None if connection.vendor == "mysql" else [KEY.name]
            manager.bulk_create(
                tasks, update_conflicts=True, update_fields=differing, unique_fields=key
            )
        else:
            manager.bulk_update(tasks, differing)


def _compare(
    tasks: dict[uuid.UUID, Task], rows: dict[uuid.UUID, Row], maybe_ours: set[uuid.UUID]
) -> _Comparison:
    """Compare the rows to be written with the rows that the database has.

    Parameters:
      tasks(dict): The rows to be written, by key.
      rows(dict): The rows that the database has, by key.
      maybe_ours(set): The keys of rows that this store may have written: by the insert just before,
        or in an earlier try whose reply was lost.  If such a row is equal to the one to be written,
        it counts as changed.
    """
    changed: list[Task] = []
    to_update: list[Task] = []
    for key, row in rows.items():
        task = tasks[key]
        new, old = _sort_key(vars(task)), _sort_key(row)
        # JSON is not compared, since a database may format it in another way.  The status is: a row
        # that was marked as lost has another status than its rank.
        if new == old and task.status == row["status"]:
            if key in maybe_ours:
                changed.append(task)
        elif new > old:
            changed.append(task)
            to_update.append(task)
    return _Comparison(changed, to_update)


def _lock_rows(connection: BaseDatabaseWrapper, keys: Iterable[uuid.UUID]) -> dict[uuid.UUID, Row]:
    """Lock the rows of ``keys`` that exist, and return them.  The order of the keys prevents
    deadlocks; see ``DatabaseStore._write_fenced``."""
    rows: dict[uuid.UUID, Row] = {}
    for some in in_portions(sorted(keys), connection):
        query = Task._base_manager.using(connection.alias).filter(pk__in=some).order_by("pk")
        for row in query.select_for_update().values(KEY.name, *_NAMES):
            rows[row.pop(KEY.name)] = row
    return rows


def _insert(connection: BaseDatabaseWrapper, tasks: list[Task]) -> None:
    """Insert rows, except those that another process has inserted meanwhile.

    Only PostgreSQL can ignore conflicts and nothing else.  MariaDB and MySQL would ignore bad data
    as well, and store other values instead.  There, a conflict ends this try, and the next try
    finds the row.  SQLite would leave out rows that violate a CHECK, without an error.  It has no
    conflicts, since no other transaction can write.
    """
    ignore_conflicts = connection.vendor == "postgresql"
    rows = Task._base_manager.using(connection.alias)
    rows.bulk_create(tasks, ignore_conflicts=ignore_conflicts)


def _differs(new: object, old: object, type_: ColumnType) -> bool:
    # 1 and true are equal in Python, but not in JSON.
    return new != old or (type_ is ColumnType.JSON and repr(new) != repr(old))


def _sort_key(row: Row) -> list[object]:
    """Return the sort key of a row: what ``transition.sort_key`` returns for its transition."""
    key: list[object] = []
    for column in COMPARED:
        value = row[column.name]
        if column.stand_in is not None:
            key += [value is not None, row[column.stand_in] if value is None else value]
        elif column.type is ColumnType.USER_KEY:
            key.append("" if value is None else str(value))
        else:
            key.append(value)
    return key
