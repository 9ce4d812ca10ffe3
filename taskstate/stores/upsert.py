"""The store that writes a batch with one guarded statement: one round trip, in autocommit."""

from __future__ import annotations

import contextlib
import time
from typing import Callable, Sequence

from django.db.backends.base.base import BaseDatabaseWrapper

from taskstate.models import Task
from taskstate.stores import Change, Written, lock_timeout
from taskstate.stores.base import DatabaseStore, in_portions, preparing_values
from taskstate.stores.dialects import dialect_of
from taskstate.stores.dialects.base import Dialect
from taskstate.stores.fence import Fence, read_fence
from taskstate.stores.rows import make_tasks
from taskstate.transitions.pending import PendingTask
from taskstate.transitions.rank import join_rank


class UpsertStore(DatabaseStore):
    """Writes a batch with one statement, which itself compares the rows and checks the fence.

    It holds no lock between two statements and needs no session, so it works through PgBouncer.

    The statement writes only if the watermark is still the one that this store has read.  After a
    clear, it is not.  Then the store reads the fence again, leaves out the transitions from before
    the clear, and sends the others.

    Parameters:
      clock(Callable): The clock of ``Transition.happened_at``: monotonic seconds.
      has_receivers(Callable): Returns whether ``task_changed`` has receivers.  If not, the database
        does not return the changed rows, and ``Written.changes`` is empty.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        has_receivers: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(clock)
        self._has_receivers = has_receivers
        self._dialects: dict[BaseDatabaseWrapper, Dialect] = {}

    def _write_fenced(
        self, connection: BaseDatabaseWrapper, batch: Sequence[PendingTask]
    ) -> Written:
        with _savepoint(connection):
            fence = self._find_fence(connection)
            while True:
                # The order of the ids prevents deadlocks; see ``DatabaseStore._write_fenced``.
                pending_tasks = sorted(fence.not_cleared(batch), key=_message_id)
                if not pending_tasks:
                    return Written(rows=0, unchanged=len(batch), changes=())
                returning = self._has_receivers()
                asked_at = self._clock()
                rows, changed = self._execute(
                    connection, pending_tasks, fence.watermark, returning=returning
                )
                previous = fence
                fence = self._confirm_fence(connection, fence, asked_at, rows)
                if fence.watermark == previous.watermark:
                    break
            if returning:
                changed += _committed_before(connection, pending_tasks, changed)
                rows = len(changed)
            tasks = make_tasks([pending.latest for pending in changed], connection.alias)
        return Written(rows, len(batch) - rows, list(map(Change, tasks, changed)))

    def _find_fence(self, connection: BaseDatabaseWrapper) -> Fence:
        """Return what is known of the last clear."""
        if connection.in_atomic_block:
            # SQLite may not be able to write in a transaction that has read before.
            return self._enter_fence(connection)
        known = self._fences.get(connection.alias)
        if known is None:
            known = self._fences[connection.alias] = read_fence(connection, self._clock)
        return known

    def _confirm_fence(
        self, connection: BaseDatabaseWrapper, fence: Fence, asked_at: float, rows: int
    ) -> Fence:
        """Return what is known of the last clear, after a statement that was sent at ``asked_at``
        has changed this many rows.  The watermark is another one if there was a clear."""
        if rows:
            # The statement has seen the same watermark.
            fence = fence._replace(seen_at=asked_at)
        else:
            # All rows were up to date, or there was a clear, or the driver does not count rows.
            fence = read_fence(connection, self._clock, fence)
        self._fences[connection.alias] = fence
        return fence

    def _execute(
        self,
        connection: BaseDatabaseWrapper,
        pending_tasks: Sequence[PendingTask],
        watermark: int,
        *,
        returning: bool,
    ) -> tuple[int, list[PendingTask]]:
        """Execute the statement.  Return how many rows it changed, and which ones if
        ``returning``."""
        dialect = self._dialects.get(connection)
        if dialect is None:
            dialect = self._dialects[connection] = dialect_of(connection)
        transitions = [pending.latest for pending in pending_tasks]
        with preparing_values(), connection.cursor() as cursor:
            cursor.execute(*dialect.statement_for(transitions, watermark, returning=returning))
            if not returning:
                return dialect.changed_rows(cursor.rowcount, sent=len(pending_tasks)), []
            ranks = {_key(pk): join_rank(stamp, rank) for pk, stamp, rank in cursor.fetchall()}
        changed = [
            pending
            for pending in pending_tasks
            if ranks.get(_key(pending.latest.message_id)) == pending.latest.rank
        ]
        return len(changed), changed


def _savepoint(connection: BaseDatabaseWrapper) -> contextlib.AbstractContextManager[None]:
    """If the caller has begun a transaction, make a savepoint, so that a failure leaves it
    usable."""
    if connection.in_atomic_block:
        return lock_timeout.transaction(connection)
    return contextlib.nullcontext()


def _committed_before(
    connection: BaseDatabaseWrapper,
    pending_tasks: Sequence[PendingTask],
    changed: Sequence[PendingTask],
) -> list[PendingTask]:
    """Return the pending tasks that an earlier try has committed, but the reply was lost: their
    rows have the same rank, but this try didn't change them.  A row that was marked as lost since
    then has the same rank, but another status, so it doesn't count."""
    just_changed = {id(pending) for pending in changed}
    doubtful = [p for p in pending_tasks if p.maybe_committed and id(p) not in just_changed]
    ranks: dict[tuple[str, str], int] = {}
    for some in in_portions(doubtful, connection):
        ids = [pending.latest.message_id for pending in some]
        rows = Task._base_manager.using(connection.alias).filter(pk__in=ids)
        for pk, status, stamp, rank in rows.values_list("pk", "status", "stamp", "rank"):
            ranks[_key(pk), status] = join_rank(stamp, rank)
    return [
        pending
        for pending in doubtful
        if ranks.get((_key(pending.latest.message_id), pending.latest.status))
        == pending.latest.rank
    ]


def _message_id(pending: PendingTask) -> str:
    return pending.latest.fields.message_id


def _key(message_id: object) -> str:
    """Return a message id as text without dashes, however the database returns UUIDs."""
    return str(message_id).replace("-", "")
