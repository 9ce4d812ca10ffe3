"""The fence between flushes and ``clear_tasks``, in the database's own time.

The ORM store enters the fence: it learns how long ago the last clear was, and no clear can happen
until it has committed.  The upsert only looks, and its statement writes nothing unless the
watermark is still the one that it saw.  A clear waits for the flushes inside, then leaves its time.
A transition reaches the database with its age, so no host's clock matters.

This is SQL by hand because the ORM has neither a table lock nor the database's clock in
microseconds.  Times are microseconds since 1970.
"""

from __future__ import annotations

import logging
import math
from typing import Any, Callable, NamedTuple, Sequence

from django.db import DatabaseError, NotSupportedError, connections, models
from django.db.backends.base.base import BaseDatabaseWrapper

from ..buffer import Entry
from ..models import Task, Watermark
from ..threads import Deadline
from . import locks
from .errors import is_contention

logger = logging.getLogger(__name__)

_CLOCK = {
    "postgresql": "(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint",
    "mysql": "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))",
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000",
}

_GREATEST = {"sqlite": "MAX"}

#: The kinds of databases that have a fence, by Django's names for them.
VENDORS = tuple(_CLOCK)

#: How long one try of a clear may wait for the flushes inside, in seconds: while it waits,
#: new flushes wait behind it.
CLOSE_TRY_SECONDS = 1


#: What happened so shortly after a clear counts as before it: SQLite's clock has milliseconds, so a
#: difference is off by one.
AGE_MARGIN_SECONDS = 0.002


class Fence(NamedTuple):
    """What this process knows of the last clear."""

    #: The watermark itself: as long as it is this one, there was no other clear.
    version: int
    #: By this process's monotonic clock, in seconds: the clear was then, or earlier.
    cleared_at: float
    #: When this was read, by the database's clock; None if it wasn't.
    read_at: int | None = None

    def younger(self, batch: Sequence[Entry]) -> list[Entry]:
        """Return those of a batch that surely happened after the clear."""
        limit = self.cleared_at + AGE_MARGIN_SECONDS
        return [entry for entry in batch if entry.winner.happened_at > limit]


def look(connection: BaseDatabaseWrapper, clock: Callable[[], float]) -> Fence:
    """Return what is known of the last clear now; another one may follow at once."""
    with connection.cursor() as cursor:
        fence = _read(connection, cursor, clock)
    if fence is not None:
        return fence
    # Somebody else may be making it in a transaction: wait for that no longer than for a row.
    with locks.transaction(connection), connection.cursor() as cursor:
        return _make(connection, cursor, clock)


def enter(connection: BaseDatabaseWrapper, clock: Callable[[], float]) -> Fence:
    """Enter the fence: until the end of this transaction, there is no other clear."""
    table = _table(connection, Watermark)
    lock = ""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            # Every write takes this lock anyway; here it is taken before the watermark is read.
            tasks = _table(connection, Task)
            cursor.execute(f"LOCK TABLE {tasks} IN ROW EXCLUSIVE MODE")
        elif connection.vendor == "mysql":
            lock = " LOCK IN SHARE MODE"
            # A statement's time is when it began: wait for the lock in one of its own.
            cursor.execute(f"SELECT id FROM {table} WHERE id = {Watermark.ONLY}{lock}")
        else:
            # SQLite: a write first, since a transaction that reads first can't always write.
            cursor.execute(_creation(connection))
        return _read(connection, cursor, clock, lock) or _make(connection, cursor, clock, lock)


def _make(
    connection: BaseDatabaseWrapper, cursor: Any, clock: Callable[[], float], lock: str = ""
) -> Fence:
    cursor.execute(_creation(connection))
    # Should somebody delete it right now: there never was a clear.
    return _read(connection, cursor, clock, lock) or Fence(0, -math.inf)


def _read(
    connection: BaseDatabaseWrapper, cursor: Any, clock: Callable[[], float], lock: str = ""
) -> Fence | None:
    query = (
        f"SELECT cleared_at, {clock_of(connection)} - cleared_at "
        f"FROM {_table(connection, Watermark)} WHERE id = {Watermark.ONLY}{lock}"
    )
    cursor.execute(query)
    row = cursor.fetchone()
    if row is None:
        return None
    version, microseconds_ago = row
    # The database's clock may have been set back; a clear that can be read has happened.
    cleared_at = clock() - max(0.0, float(microseconds_ago)) / 1_000_000
    return Fence(version, cleared_at, version + int(microseconds_ago))


def close(alias: str, timeout: float) -> bool:
    """Wait for the flushes inside the fence, and leave the time of this clear.

    Parameters:
      alias(str): The database.
      timeout(float): Seconds to wait for them at most.

    Returns:
      bool: False if one was still inside then; nothing has changed in that case.
    """
    deadline = Deadline(timeout)
    while True:
        try:
            _close_once(alias)
        except DatabaseError as error:
            if not is_contention(error):
                raise
            if not deadline.left():
                return False
            logger.debug("A process is writing task states, waiting for it: %s", error)
        else:
            return True


def _close_once(alias: str) -> None:
    connection = connections[alias]
    clock = clock_of(connection)
    table = _table(connection, Watermark)
    with locks.transaction(connection, CLOSE_TRY_SECONDS), connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            tasks = _table(connection, Task)
            cursor.execute(f"LOCK TABLE {tasks} IN SHARE ROW EXCLUSIVE MODE")
        cursor.execute(_creation(connection))
        # No two clears leave the same mark, whatever became of the database's clock.
        later = f"{_GREATEST.get(connection.vendor, 'GREATEST')}({clock}, cleared_at + 1)"
        cursor.execute(f"UPDATE {table} SET cleared_at = {later} WHERE id = {Watermark.ONLY}")


def _creation(connection: BaseDatabaseWrapper) -> str:
    """Return the statement that creates the only row if it isn't there."""
    values = f"{_table(connection, Watermark)} (id, cleared_at) VALUES ({Watermark.ONLY}, 0)"
    if connection.vendor == "postgresql":
        return f"INSERT INTO {values} ON CONFLICT DO NOTHING"
    return f"INSERT {'IGNORE' if connection.vendor == 'mysql' else 'OR IGNORE'} INTO {values}"


def clock_of(connection: BaseDatabaseWrapper) -> str:
    """Return the SQL for the present by the database's own clock."""
    clock: str | None = _CLOCK.get(connection.vendor)
    if clock is None:
        raise NotSupportedError(
            f"taskstate can't write to {connection.display_name}. Point DRAMATIQ_TASKS_DATABASE "
            "at a PostgreSQL, MariaDB, MySQL or SQLite database."
        )
    return clock


def _table(connection: BaseDatabaseWrapper, model: type[models.Model]) -> str:
    return connection.ops.quote_name(model._meta.db_table)
