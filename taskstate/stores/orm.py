"""The store that Django's ORM can do on every database: the reference for all others."""

from __future__ import annotations

import uuid
from typing import Any, Dict, Iterable, Sequence

import django
from django.db.backends.base.base import BaseDatabaseWrapper

from ..buffer import Entry
from ..models import Task
from . import Change, Written, locks, watermark
from .base import DatabaseStore, in_portions
from .rows import task_of

#: What a fact decides, but for the key.
_COLUMNS = tuple(
    field.attname
    for field in Task._meta.concrete_fields
    if not field.primary_key and field.name not in {"seen_at", "written_at"}
)

#: What is equal in Python may be another value there: 1 and true.
_JSON_COLUMNS = frozenset({"result", "metadata"})

#: Since 4.1 ``bulk_create`` can update what is there, in one statement that is as cheap for each
#: row as an insert; ``bulk_update`` builds an expression per row and column.
_CAN_UPDATE_CONFLICTS = django.VERSION >= (4, 1)

Row = Dict[str, Any]


class OrmStore(DatabaseStore):
    """Writes batches with ``bulk_create``, in one transaction.

    A batch takes the same number of statements whatever its size, as long as the database
    limits no parameters: rows are locked and inserted in the order of their keys, so two
    processes that write the same messages wait for each other instead of blocking each other.
    Which fact wins is decided here, while the row is locked.
    """

    def _write_once(self, connection: BaseDatabaseWrapper, batch: Sequence[Entry]) -> Written:
        with locks.transaction(connection):
            fence = watermark.enter(connection, self._clock)
            entries = {uuid.UUID(entry.winner.message_id): entry for entry in fence.younger(batch)}
            changed = self._merge(connection, entries, written_at=fence.read_at)
        return Written(
            rows=len(changed),
            unchanged=len(batch) - len(changed),
            changes=[Change(task, entries[task.message_id]) for task in changed],
        )

    def _merge(
        self,
        connection: BaseDatabaseWrapper,
        entries: dict[uuid.UUID, Entry],
        written_at: int | None,
    ) -> list[Task]:
        """Merge entries into the table; return the rows that this changed."""
        tasks = {key: task_of(entry.winner, connection.alias) for key, entry in entries.items()}
        for task in tasks.values():
            task.written_at = written_at
        known = _locked(connection, tasks)
        missing = sorted(tasks.keys() - known.keys())
        _insert(connection, [tasks[key] for key in missing])
        inserted = _locked(connection, missing)

        rows = {**known, **inserted}
        changed: list[Task] = []
        outdated: list[Task] = []
        for key, row in rows.items():
            task = tasks[key]
            if _identity(_columns(task)) == _identity(row):
                # The very fact is there: because we have just inserted it, or because we had
                # committed it before and never heard of it.
                if key in inserted or entries[key].uncertain:
                    changed.append(task)
            elif _precedence(row) < _precedence(_columns(task)):
                changed.append(task)
                outdated.append(task)
        self._update(connection, outdated, rows)
        return changed

    def _update(
        self, connection: BaseDatabaseWrapper, tasks: list[Task], rows: dict[uuid.UUID, Row]
    ) -> None:
        """Update rows, which are locked, where they differ."""
        differing = [
            Task._meta.get_field(name).name
            for name in _COLUMNS
            if any(_differs(task, name, rows[task.message_id]) for task in tasks)
        ]
        if not differing:
            return
        differing.append("written_at")
        tasks = sorted(tasks, key=lambda task: task.message_id)
        manager = Task._base_manager.using(connection.alias)
        if _CAN_UPDATE_CONFLICTS:
            # MySQL and MariaDB take the conflict from whatever unique index has it.
            key = None if connection.vendor == "mysql" else ["message_id"]
            manager.bulk_create(
                tasks, update_conflicts=True, update_fields=differing, unique_fields=key
            )
        else:
            manager.bulk_update(tasks, differing)


def _locked(connection: BaseDatabaseWrapper, keys: Iterable[uuid.UUID]) -> dict[uuid.UUID, Row]:
    """Return the rows of ``keys`` that exist, locked in the order of their keys."""
    rows: dict[uuid.UUID, Row] = {}
    for some in in_portions(sorted(keys), connection):
        query = Task._base_manager.using(connection.alias).filter(pk__in=some).order_by("pk")
        for row in query.select_for_update().values("message_id", *_COLUMNS):
            rows[row.pop("message_id")] = row
    return rows


def _insert(connection: BaseDatabaseWrapper, tasks: list[Task]) -> None:
    """Insert rows, except those that another process has inserted meanwhile.

    Only PostgreSQL ignores conflicts and nothing else.  MariaDB and MySQL would ignore bad data as
    well, and store something else instead: there a conflict ends this try, and the next one finds
    the row.  SQLite would leave out what a CHECK refuses, and not say so; it has no conflicts,
    since this transaction is the only one that writes.
    """
    ignore_conflicts = connection.vendor == "postgresql"
    rows = Task._base_manager.using(connection.alias)
    rows.bulk_create(tasks, ignore_conflicts=ignore_conflicts)


def _columns(task: Task) -> Row:
    return {name: getattr(task, name) for name in _COLUMNS}


def _differs(task: Task, name: str, row: Row) -> bool:
    new, old = getattr(task, name), row[name]
    return new != old or (name in _JSON_COLUMNS and repr(new) != repr(old))


def _identity(row: Row) -> tuple[object, ...]:
    """Return what tells a fact from all others: not its JSON, which a database may write in another
    way.  A row that was marked as lost has another status than its rank says."""
    return (*_precedence(row), row["status"])


def _precedence(row: Row) -> tuple[object, ...]:
    """Return the sort key of a row: ``transitions.precedence``, in terms of columns."""
    started_at, enqueued_at = row["started_at"], row["enqueued_at"]
    return (
        row["rank"],
        row["attempt"],
        started_at is not None,
        started_at or enqueued_at,
        enqueued_at,
        row["actor_name"],
        row["queue_name"],
        row["description"],
        row["model_name"],
        row["app_name"],
        "" if row["user_id"] is None else str(row["user_id"]),
    )
