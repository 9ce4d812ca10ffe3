"""The fence between ``clear_tasks`` and the flushes of all processes.

``clear_tasks`` deletes rows while other processes still hold transitions of the same messages.  If
these were written after the clear, the rows would come back.  So a clear stores its time in the
database, as the watermark, and a flush leaves out each transition that happened before it.  For
example:

- At 12:00:00 a worker ends task A.  The transition is pending.
- At 12:00:01 ``clear_tasks`` raises the fence: the watermark is now 12:00:01.  It deletes all rows.
- At 12:00:02 the worker starts task B, and flushes.  The clear was one second ago.  A's transition
  happened two seconds ago, and is left out; B's is written.

No time of one clock is compared with a time of another: the database says how long ago the clear
was, and each process knows how long ago a transition happened.  So no host's clock matters.

A flush respects the fence in one of two ways.  The ORM store *enters* it, in its transaction: no
clear happens until that ends, since a clear waits for the flushes inside.  The upsert store only
*reads* it, and its statement writes nothing if the watermark has changed by then.

The database's own clock may be set back or forward, by hand or by a failover.  So the age of a
clear is taken once per store, when the store first reads its watermark.  And it is limited by the
order of watermarks: a greater one was stored after the smaller one was last read, and before it was
read itself.  If the clock is behind a watermark, only that order decides:

- A store that has read an earlier watermark leaves out all that happened before it reads this one.
- A store that has read none belongs to a process that has just started.  It writes all that it
  holds: most processes start long after a clear, and their first states would otherwise be lost
  for as long as the clock is behind.

In either case, all that happens later is written.

There are two clocks here, with two units.  The watermark and ``database_time`` are times of the
database, in microseconds since 1970.  All other times are times of this process's monotonic clock,
in seconds, as ``Transition.happened_at`` is.

The SQL is written by hand because the ORM has no table lock.
"""

from __future__ import annotations

import logging
import math
from typing import Any, Callable, NamedTuple, Sequence

from django.db import DatabaseError, connections, models
from django.db.backends.base.base import BaseDatabaseWrapper

from taskstate.models import Task, Watermark
from taskstate.stores import lock_timeout
from taskstate.stores.clock import current_time_sql
from taskstate.stores.errors import is_contention, summarize
from taskstate.transitions.pending import PendingTask
from taskstate.utils.sync import Deadline

logger = logging.getLogger(__name__)

_GREATEST = {"sqlite": "MAX"}

#: How long one try of a clear may wait for the flushes inside, in seconds.  While it waits, new
#: flushes wait behind it.
RAISE_TRY_SECONDS = 1

#: A transition that happened this shortly after a clear counts as before it: SQLite's clock counts
#: milliseconds, so an age may be wrong by one.
AGE_MARGIN_SECONDS = 0.002


class Fence(NamedTuple):
    """What this process knows of the last clear."""

    #: The time of the last clear, by the database's clock; 0 if there was none.  As long as the
    #: database has the same watermark, there was no other clear.
    watermark: int
    #: The clear was at this time or earlier, by the monotonic clock.
    cleared_at: float
    #: The database's time when it was asked; None if it has no watermark.
    database_time: int | None = None
    #: At this time, by the monotonic clock, the watermark was still the same.
    seen_at: float = -math.inf

    def not_cleared(self, batch: Sequence[PendingTask]) -> list[PendingTask]:
        """Return the pending tasks of a batch whose latest transition happened after the clear."""
        limit = self.cleared_at + AGE_MARGIN_SECONDS
        return [pending for pending in batch if pending.latest.happened_at > limit]


def read_fence(
    connection: BaseDatabaseWrapper, clock: Callable[[], float], known: Fence | None = None
) -> Fence:
    """Return what is known of the last clear now.  Another clear may follow at any time.

    Parameters:
      clock(Callable): The clock of ``Transition.happened_at``: monotonic seconds.
      known(Fence): What ``read_fence`` or ``enter_fence`` last returned for this database; None
        at the first call.
    """
    with connection.cursor() as cursor:
        reading = _read(connection, cursor, clock)
    if reading is None:
        reading = _create_alone(connection, clock)
    return _fence_of(reading, known)


def enter_fence(
    connection: BaseDatabaseWrapper, clock: Callable[[], float], known: Fence | None = None
) -> Fence:
    """Enter the fence: until the end of this transaction, there is no other clear.  The parameters
    are those of ``read_fence``."""
    lock = ""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            # Every write takes this lock; this takes it before the watermark is read.
            tasks = _table(connection, Task)
            cursor.execute(f"LOCK TABLE {tasks} IN ROW EXCLUSIVE MODE")
        elif connection.vendor == "mysql":
            lock = " LOCK IN SHARE MODE"
            # The time of a statement is when it began, so an earlier statement waits for the lock.
            watermarks = _table(connection, Watermark)
            cursor.execute(f"SELECT id FROM {watermarks} WHERE id = {Watermark.ONLY}{lock}")
        else:
            # SQLite: a transaction that reads before it writes may not be able to write.
            cursor.execute(_creation(connection))
        reading = _read(connection, cursor, clock, lock)
        return _fence_of(reading or _create(connection, cursor, clock, lock), known)


def raise_fence(alias: str, timeout: float) -> bool:
    """Wait for the flushes inside the fence, and store the time of this clear as the watermark.

    Parameters:
      alias(str): The database.
      timeout(float): How long to wait at most, in seconds.

    Returns:
      bool: False if a flush was still inside then.  Nothing has changed in that case.
    """
    deadline = Deadline(timeout)
    while True:
        try:
            _raise_once(alias)
        except DatabaseError as error:
            if not is_contention(error):
                raise
            if not deadline.left():
                return False
            logger.debug("Waiting for a process that is writing task states: %s.", summarize(error))
        else:
            return True


def _raise_once(alias: str) -> None:
    connection = connections[alias]
    now = current_time_sql(connection)
    table = _table(connection, Watermark)
    with lock_timeout.transaction(connection, RAISE_TRY_SECONDS), connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            tasks = _table(connection, Task)
            cursor.execute(f"LOCK TABLE {tasks} IN SHARE ROW EXCLUSIVE MODE")
        cursor.execute(_creation(connection))
        # Each clear has a watermark of its own, even if the database's clock was set back.
        later = f"{_GREATEST.get(connection.vendor, 'GREATEST')}({now}, cleared_at + 1)"
        cursor.execute(f"UPDATE {table} SET cleared_at = {later} WHERE id = {Watermark.ONLY}")


class _Reading(NamedTuple):
    """What the database answered about its watermark."""

    watermark: int
    #: How long ago the clear was, by the database's clock, in seconds.
    age: float
    #: When the database was asked and when it had answered, by the monotonic clock.
    asked_at: float
    answered_at: float
    #: The database's time when it was asked.
    database_time: int | None = None


def _fence_of(reading: _Reading, known: Fence | None) -> Fence:
    """Calculate when a clear was, from its age and from what is known of an earlier one."""
    if reading.age >= -AGE_MARGIN_SECONDS:
        cleared_at = reading.answered_at - max(0.0, reading.age)
    elif known is not None:
        cleared_at = reading.answered_at  # It has happened by now.
    else:
        cleared_at = -math.inf
    if known is not None:
        if reading.watermark == known.watermark:
            cleared_at = known.cleared_at
        elif reading.watermark > known.watermark:
            cleared_at = max(cleared_at, known.seen_at)
        else:
            # The greater watermark is lost, in a failover for example.  The smaller one is older.
            cleared_at = min(cleared_at, known.cleared_at)
    return Fence(reading.watermark, cleared_at, reading.database_time, seen_at=reading.asked_at)


def _read(
    connection: BaseDatabaseWrapper, cursor: Any, clock: Callable[[], float], lock: str = ""
) -> _Reading | None:
    """Read the watermark; return None if there is none yet."""
    query = (
        f"SELECT cleared_at, {current_time_sql(connection)} - cleared_at "
        f"FROM {_table(connection, Watermark)} WHERE id = {Watermark.ONLY}{lock}"
    )
    asked_at = clock()
    cursor.execute(query)
    row = cursor.fetchone()
    if row is None:
        return None
    watermark, microseconds_ago = row
    database_time = watermark + int(microseconds_ago)
    return _Reading(
        watermark, float(microseconds_ago) / 1_000_000, asked_at, clock(), database_time
    )


def _create(
    connection: BaseDatabaseWrapper, cursor: Any, clock: Callable[[], float], lock: str = ""
) -> _Reading:
    """Create the watermark, and read it."""
    cursor.execute(_creation(connection))
    reading = _read(connection, cursor, clock, lock)
    # If it was deleted in between, assume that there was no clear.
    return reading or _Reading(0, math.inf, -math.inf, clock())


def _create_alone(connection: BaseDatabaseWrapper, clock: Callable[[], float]) -> _Reading:
    """Create the watermark outside of a transaction of the caller's, and read it."""
    if connection.vendor == "sqlite":
        # Without a transaction: in memory, a transaction would lock out all other threads.
        with connection.cursor() as cursor:
            return _create(connection, cursor, clock)
    # Another process may be creating it in a transaction, so the wait for that has a limit.
    with lock_timeout.transaction(connection), connection.cursor() as cursor:
        return _create(connection, cursor, clock)


def _creation(connection: BaseDatabaseWrapper) -> str:
    """Return the statement that creates the watermark if there is none."""
    values = f"{_table(connection, Watermark)} (id, cleared_at) VALUES ({Watermark.ONLY}, 0)"
    if connection.vendor == "postgresql":
        return f"INSERT INTO {values} ON CONFLICT DO NOTHING"
    return f"INSERT {'IGNORE' if connection.vendor == 'mysql' else 'OR IGNORE'} INTO {values}"


def _table(connection: BaseDatabaseWrapper, model: type[models.Model]) -> str:
    return connection.ops.quote_name(model._meta.db_table)
