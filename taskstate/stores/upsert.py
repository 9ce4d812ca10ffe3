"""The store that writes a batch with one guarded statement: one round trip, in autocommit."""

from __future__ import annotations

import time
from typing import Callable, Sequence

from django.db.backends.base.base import BaseDatabaseWrapper

from ..buffer import Entry
from ..models import Task
from . import Change, Written, locks, watermark
from .base import DatabaseStore, in_portions
from .dialects import Dialect, dialect_of
from .rows import task_of


class UpsertStore(DatabaseStore):
    """Writes a batch with one statement, which carries the merge order and the fence itself.

    It holds no lock between two statements, needs no session, and so passes through PgBouncer.

    The fence is optimistic: the statement writes only if the watermark is the one that this
    store has seen.  After a clear it isn't: then the store looks again, leaves out what the
    clear was meant for, and sends the rest.

    Parameters:
      clock(Callable): The monotonic clock that ``Transition.happened_at`` was read from.
      is_listened(Callable): Returns whether anybody wants to know which rows were changed; if
        not, none is returned by the database, and ``Written.changes`` is empty.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        is_listened: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(clock)
        self._is_listened = is_listened
        self._dialects: dict[BaseDatabaseWrapper, Dialect] = {}
        self._fences: dict[str, watermark.Fence] = {}

    def _write_once(self, connection: BaseDatabaseWrapper, batch: Sequence[Entry]) -> Written:
        if connection.in_atomic_block:
            # A savepoint: a failure leaves the caller's transaction usable.
            with locks.transaction(connection):
                # SQLite can't write in a transaction that has read first.
                fence = watermark.enter(connection, self._clock)
                return self._write_despite_clears(connection, batch, fence)
        known = self._fences.get(connection.alias)
        fence = known or watermark.look(connection, self._clock)
        return self._write_despite_clears(connection, batch, fence)

    def _write_despite_clears(
        self, connection: BaseDatabaseWrapper, batch: Sequence[Entry], fence: watermark.Fence
    ) -> Written:
        while True:
            self._fences[connection.alias] = fence
            # By their keys, so that two processes never wait for each other in a circle.
            entries = sorted(fence.younger(batch), key=lambda entry: entry.winner.fields.message_id)
            if not entries:
                return Written(rows=0, unchanged=len(batch), changes=())
            returning = self._is_listened()
            rows, changed = self._execute(connection, entries, fence.version, returning=returning)
            if not rows:
                # Everything is old, or there was a clear.
                seen = watermark.look(connection, self._clock)
                if seen.version != fence.version:
                    fence = seen
                    continue
            if returning:
                changed += _committed_before(connection, entries, changed)
                rows = len(changed)
            changes = [Change(task_of(entry.winner, connection.alias), entry) for entry in changed]
            return Written(rows, len(batch) - rows, changes)

    def _execute(
        self,
        connection: BaseDatabaseWrapper,
        entries: Sequence[Entry],
        version: int,
        *,
        returning: bool,
    ) -> tuple[int, list[Entry]]:
        """Run the statement; return how many rows it changed, and, if that is asked, which."""
        dialect = self._dialect(connection)
        facts = [entry.winner for entry in entries]
        with connection.cursor() as cursor:
            cursor.execute(*dialect.prepare(facts, version, returning=returning))
            if not returning:
                return dialect.rows(cursor.rowcount, sent=len(entries)), []
            ranks = {_key(message_id): rank for message_id, rank in cursor.fetchall()}
        changed = [
            entry
            for entry in entries
            if ranks.get(_key(entry.winner.message_id)) == entry.winner.rank
        ]
        return len(changed), changed

    def _dialect(self, connection: BaseDatabaseWrapper) -> Dialect:
        dialect = self._dialects.get(connection)
        if dialect is None:
            dialect = self._dialects[connection] = dialect_of(connection)
        return dialect


def _committed_before(
    connection: BaseDatabaseWrapper, entries: Sequence[Entry], changed: Sequence[Entry]
) -> list[Entry]:
    """Return those that an earlier try has committed without our hearing of it: their rows have
    our rank, and yet this try didn't change them.  A row that was marked as lost since has it, too,
    but another status: it is not ours any more."""
    known = {id(entry) for entry in changed}
    lost = [entry for entry in entries if entry.uncertain and id(entry) not in known]
    ranks: dict[tuple[str, str], int] = {}
    for some in in_portions(lost, connection):
        ids = [entry.winner.message_id for entry in some]
        rows = Task._base_manager.using(connection.alias).filter(pk__in=ids)
        for pk, status, rank in rows.values_list("pk", "status", "rank"):
            ranks[_key(pk), status] = rank
    return [
        entry
        for entry in lost
        if ranks.get((_key(entry.winner.message_id), entry.winner.status)) == entry.winner.rank
    ]


def _key(message_id: object) -> str:
    """Return a message id as text without dashes, whatever kind of UUID a database returns."""
    return str(message_id).replace("-", "")
