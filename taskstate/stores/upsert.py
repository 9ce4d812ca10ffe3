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
    """Writes a batch with one statement, which itself compares rows and checks the fence.

    It holds no lock between two statements and needs no session, so it works through PgBouncer.

    The statement writes only if the watermark is the one that this store has read.  After a clear,
    it isn't.  Then the store reads the fence again, leaves out what the clear was meant for, and
    sends the rest.

    Parameters:
      clock(Callable): The monotonic clock that ``Transition.happened_at`` was read from.
      is_listened(Callable): Returns whether anyone wants to know which rows were changed.  If not,
        the database returns none, and ``Written.changes`` is empty.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        is_listened: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(clock)
        self._is_listened = is_listened
        self._dialects: dict[BaseDatabaseWrapper, Dialect] = {}

    def _write_fenced(
        self, connection: BaseDatabaseWrapper, batch: Sequence[PendingTask]
    ) -> Written:
        with _savepoint(connection):
            fence = self._find_fence(connection)
            is_current = False
            while not is_current:
                # In the order of their keys, so that no two processes wait for each other.
                pending_tasks = sorted(fence.not_cleared(batch), key=_message_id)
                if not pending_tasks:
                    return Written(rows=0, unchanged=len(batch), changes=())
                returning = self._is_listened()
                asked_at = self._clock()
                rows, changed = self._execute(
                    connection, pending_tasks, fence.version, returning=returning
                )
                version = fence.version
                fence = self._confirm_fence(connection, fence, asked_at, has_written=rows > 0)
                is_current = fence.version == version
            if returning:
                changed += _committed_before(connection, pending_tasks, changed)
                rows = len(changed)
            tasks = make_tasks([pending.latest for pending in changed], connection.alias)
        return Written(rows, len(batch) - rows, list(map(Change, tasks, changed)))

    def _find_fence(self, connection: BaseDatabaseWrapper) -> Fence:
        """Return what is known of the last clear."""
        if connection.in_atomic_block:
            # SQLite can't write in a transaction that has read first.
            return self._enter_fence(connection)
        known = self._fences.get(connection.alias)
        if known is None:
            known = self._fences[connection.alias] = read_fence(connection, self._clock)
        return known

    def _confirm_fence(
        self, connection: BaseDatabaseWrapper, fence: Fence, asked_at: float, *, has_written: bool
    ) -> Fence:
        """Return what is known of the last clear after a statement that began at ``asked_at``."""
        if has_written:
            # There was no clear until then.
            fence = fence._replace(seen_at=asked_at)
        else:
            # All rows were up to date, or there was a clear.
            fence = read_fence(connection, self._clock, fence)
        self._fences[connection.alias] = fence
        return fence

    def _execute(
        self,
        connection: BaseDatabaseWrapper,
        pending_tasks: Sequence[PendingTask],
        version: int,
        *,
        returning: bool,
    ) -> tuple[int, list[PendingTask]]:
        """Run the statement.  Return how many rows it changed; and which, if ``returning``."""
        dialect = self._dialects.get(connection)
        if dialect is None:
            dialect = self._dialects[connection] = dialect_of(connection)
        transitions = [pending.latest for pending in pending_tasks]
        with preparing_values(), connection.cursor() as cursor:
            cursor.execute(*dialect.prepare(transitions, version, returning=returning))
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
    """In a transaction of the caller's, make a savepoint: a failure leaves that usable."""
    if connection.in_atomic_block:
        return lock_timeout.transaction(connection)
    return contextlib.nullcontext()


def _committed_before(
    connection: BaseDatabaseWrapper,
    pending_tasks: Sequence[PendingTask],
    changed: Sequence[PendingTask],
) -> list[PendingTask]:
    """Return the pending tasks that an earlier try has committed, though its reply was lost: their
    rows have our rank, and yet this try didn't change them.  A row that was marked as lost since
    then has our rank as well, but another status: it is not ours any more."""
    known = {id(pending) for pending in changed}
    doubtful = [p for p in pending_tasks if p.maybe_committed and id(p) not in known]
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
