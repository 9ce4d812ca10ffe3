"""The store that Django's ORM can do on every database: the reference for all others."""

from __future__ import annotations

import datetime
import logging
import time
import uuid
from typing import Any, Callable, Dict, Iterable, Iterator, Sequence

from django.conf import settings
from django.db import Error, close_old_connections, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from .. import conf
from ..buffer import Entry
from ..models import Task
from ..transitions import FINISHED, Transition
from . import BadDataError, Change, Written, locks, watermark
from .errors import NotInsertedError, is_bad_data, is_conflict

logger = logging.getLogger("taskstate")

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
_MILLISECOND = datetime.timedelta(milliseconds=1)

#: How often a batch is tried at once when another writer was in the way.
TRIES = 4

#: Added to a transition's age: what rounding and the way to the database may take from it.
AGE_MARGIN_SECONDS = 0.005

#: All columns besides the key.
_COLUMNS = tuple(field.attname for field in Task._meta.concrete_fields if not field.primary_key)

Row = Dict[str, Any]


class OrmStore:
    """Writes batches with ``bulk_create`` and ``bulk_update``, in one transaction.

    A batch takes the same number of statements whatever its size, as long as the database
    limits no parameters: rows are locked and inserted in the order of their keys, so two
    processes that write the same messages wait for each other instead of blocking each other.

    Parameters:
      clock(Callable): The monotonic clock that ``Transition.happened_at`` was read from.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._connections: list[object] = []

    def write(self, batch: Sequence[Entry]) -> Written:
        """Commit a batch; see ``Store.write``.  Inside a transaction it takes a savepoint."""
        connection = connections[conf.tasks_database()]
        try:
            return self._write_despite_conflicts(connection, batch)
        except Exception as error:
            if is_bad_data(error):
                raise BadDataError(str(error)) from error
            raise

    def is_in_transaction(self) -> bool:
        """Return whether the calling thread is inside ``transaction.atomic``."""
        return connections[conf.tasks_database()].in_atomic_block

    def tidy(self) -> None:
        """Close connections that are too old or broken."""
        close_old_connections()
        self._connections = _connections_of_this_thread()

    def close(self) -> None:
        """Close the connections of this thread, receivers' included."""
        connections.close_all()
        self._connections = []

    def _write_despite_conflicts(
        self, connection: BaseDatabaseWrapper, batch: Sequence[Entry]
    ) -> Written:
        for _ in range(TRIES - 1):
            try:
                return self._write_once(connection, batch)
            except Error as error:
                # A conflict may have ended the caller's transaction: then the caller has to know.
                if connection.in_atomic_block or not is_conflict(error):
                    raise
                logger.debug("Another writer was in the way, trying again: %s", error)
        return self._write_once(connection, batch)

    def _write_once(self, connection: BaseDatabaseWrapper, batch: Sequence[Entry]) -> Written:
        with locks.transaction(connection):
            since_clear = watermark.enter(connection)
            now = self._clock()
            entries = {
                uuid.UUID(entry.winner.message_id): entry
                for entry in batch
                if now - entry.winner.happened_at + AGE_MARGIN_SECONDS < since_clear
            }
            changed = _merge(connection, entries)
        return Written(
            changes=[Change(task, entries[task.message_id]) for task in changed],
            unchanged=len(batch) - len(changed),
        )


def _merge(connection: BaseDatabaseWrapper, entries: dict[uuid.UUID, Entry]) -> list[Task]:
    """Merge entries into the table; return the rows that this changed."""
    tasks = {key: _task(entry.winner, connection) for key, entry in entries.items()}
    known = _locked(connection, tasks)
    missing = sorted(tasks.keys() - known.keys())
    _insert(connection, [tasks[key] for key in missing])
    inserted = _locked(connection, missing)
    _require(missing, inserted)

    rows = {**known, **inserted}
    changed: list[Task] = []
    outdated: list[Task] = []
    for key, entry in entries.items():
        if _columns(tasks[key]) == rows[key]:
            # The very fact is there: because we have just inserted it, or because we had
            # committed it before and never heard of it.
            if key in inserted or entry.uncertain:
                changed.append(tasks[key])
        elif _precedence(rows[key]) < _precedence(_columns(tasks[key])):
            changed.append(tasks[key])
            outdated.append(tasks[key])
    _update(connection, outdated, rows)
    return changed


def _connections_of_this_thread() -> list[object]:
    try:
        return list(connections.all(initialized_only=True))
    except TypeError:  # Django before 4.1 has no such argument, and opens none either.
        return list(connections.all())


def _locked(connection: BaseDatabaseWrapper, keys: Iterable[uuid.UUID]) -> dict[uuid.UUID, Row]:
    """Return the rows of ``keys`` that exist, locked in the order of their keys."""
    rows: dict[uuid.UUID, Row] = {}
    for some in _chunks(sorted(keys), connection.features.max_query_params):
        query = Task._base_manager.using(connection.alias).filter(pk__in=some).order_by("pk")
        for row in query.select_for_update().values("message_id", *_COLUMNS):
            rows[row.pop("message_id")] = row
    return rows


def _insert(connection: BaseDatabaseWrapper, tasks: list[Task]) -> None:
    """Insert rows, except those that another process has inserted meanwhile.

    Where MariaDB and MySQL ignore conflicts they ignore bad data as well, and store something
    else instead: there a conflict ends this try, and the next one finds the row.
    """
    ignore_conflicts = connection.vendor != "mysql"
    rows = Task._base_manager.using(connection.alias)
    rows.bulk_create(tasks, ignore_conflicts=ignore_conflicts)


def _require(keys: Iterable[uuid.UUID], rows: dict[uuid.UUID, Row]) -> None:
    """Make sure that what was inserted is there."""
    lost = [key for key in keys if key not in rows]
    if lost:
        raise NotInsertedError(f"{len(lost)} rows were not inserted, the first one is {lost[0]}")


def _update(connection: BaseDatabaseWrapper, tasks: list[Task], rows: dict[uuid.UUID, Row]) -> None:
    differing = [
        name
        for name in _COLUMNS
        if any(getattr(task, name) != rows[task.message_id][name] for task in tasks)
    ]
    if differing:
        tasks = sorted(tasks, key=lambda task: task.message_id)
        fields = [Task._meta.get_field(name).name for name in differing]
        Task._base_manager.using(connection.alias).bulk_update(tasks, fields)


def _columns(task: Task) -> Row:
    return {name: getattr(task, name) for name in _COLUMNS}


def _task(fact: Transition, connection: BaseDatabaseWrapper) -> Task:
    """Return the row that ``fact`` makes."""
    updated_at = _moment(fact.time)
    task = Task(
        message_id=uuid.UUID(fact.message_id),
        status=fact.status.value,
        attempt=fact.attempt,
        actor_name=fact.actor_name,
        queue_name=fact.queue_name,
        user_id=fact.user_pk,  # type: ignore[misc]  # a user model's key may be a UUID
        description=fact.description,
        model_name=fact.model_name,
        app_name=fact.app_name,
        enqueued_at=_moment(fact.enqueued_at),
        started_at=None if fact.started_at is None else _moment(fact.started_at),
        finished_at=updated_at if fact.status in FINISHED else None,
        updated_at=updated_at,
        rank=fact.rank,
    )
    task._state.adding = False
    task._state.db = connection.alias
    return task


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


def _moment(milliseconds: int) -> datetime.datetime:
    """Return a time as ``DateTimeField`` wants it: naive where ``USE_TZ`` is off."""
    moment = EPOCH + milliseconds * _MILLISECOND
    if settings.USE_TZ:
        return moment
    return timezone.make_naive(moment, timezone.get_default_timezone())


def _chunks(keys: Sequence[uuid.UUID], size: int | None) -> Iterator[Sequence[uuid.UUID]]:
    size = size or max(1, len(keys))
    for start in range(0, len(keys), size):
        yield keys[start : start + size]
