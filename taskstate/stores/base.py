"""What all stores share: which database, what its errors mean, and when to try again."""

from __future__ import annotations

import abc
import contextlib
import logging
import math
import threading
import time
from typing import Any, Callable, Iterator, Sequence, TypeVar

from django.db import Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from taskstate import conf
from taskstate.stores import BadDataError, TimeLimitError, Written
from taskstate.stores.errors import (
    is_bad_data,
    is_conflict,
    is_disconnect,
    is_table_lock,
    is_time_limit,
    is_unfit_value,
    summarize,
)
from taskstate.stores.fence import Fence, enter_fence
from taskstate.transitions.pending import PendingTask, may_be_large
from taskstate.utils.sync import Deadline, WriterThread

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

#: How often a batch is tried at once, where another writer was in the way or the connection was
#: closed.
TRIES = 4

#: In an SQLite in memory, a table that another thread reads or writes is locked, and SQLite doesn't
#: wait for that lock.  A write is tried again for so long, with so long a pause, in seconds.
TABLE_LOCK_SECONDS = 0.25
TABLE_LOCK_PAUSE = 0.005

#: What a statement takes besides its rows, in bytes: the text of MariaDB's upsert above all.
_STATEMENT_BYTES = 40 * 1024

#: How often a busy writer checks its connections while all goes well, in seconds.  A check costs a
#: tenth of a small flush.
CONNECTION_CHECK_SECONDS = 1.0


class DatabaseStore(abc.ABC):
    """Writes batches through one of Django's connections.

    Parameters:
      clock(Callable): The monotonic clock that ``Transition.happened_at`` was read from.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: The connections of this thread.  Keeping them here also keeps them alive in a forked
        #: child: if they were collected there, the parent's would be closed.
        self._connections: list[BaseDatabaseWrapper] = []
        self._next_connection_check = -math.inf
        #: True after an outage: the server that answers then may be one that takes no writes.
        self._needs_new_connection = False
        self._thread = threading.get_ident()
        #: What is known of the last clear, by database.
        self._fences: dict[str, Fence] = {}
        #: True if the connections are the writer's own.  What writes in the calling thread, on the
        #: caller's connections, never closes them.
        self._owns_connections = False
        #: How many bytes the server takes in a statement; None if it is to be asked.
        self._packet_bytes: float | None = math.inf
        connection_created.connect(self._note_connection)

    @abc.abstractmethod
    def _write_fenced(
        self, connection: BaseDatabaseWrapper, batch: Sequence[PendingTask]
    ) -> Written:
        """Try once to commit a batch, without what happened before the last clear.  A failure
        leaves a transaction of the caller's usable.

        Prepare and send values inside ``preparing_values``."""

    def write(self, batch: Sequence[PendingTask]) -> Written:
        """Commit a batch; see ``Store.write``.  Inside a transaction, that takes a savepoint."""
        connection = connections[conf.tasks_database()]
        try:
            with left_usable(connection):
                return self._write_with_retries(connection, batch)
        except BadDataError as error:
            # Most such batches were not sent: they were too large, or a value was refused on this
            # side.  Then the connection may go on, unless it is broken: that was the cause.
            cause = error.__cause__
            if cause is None or _is_usable(connection):
                raise
            self._note_outage()
            raise cause  # noqa: B904 - it is where the other one comes from
        except Exception as error:
            self._next_connection_check = -math.inf
            if is_bad_data(error):
                raise BadDataError(summarize(error)) from error
            if is_time_limit(error):
                raise TimeLimitError(summarize(error)) from error
            self._note_outage()
            raise

    def _write_with_retries(
        self, connection: BaseDatabaseWrapper, batch: Sequence[PendingTask]
    ) -> Written:
        """Commit a batch.  Try again at once if another writer was in the way or the connection was
        closed; and for a moment while another thread uses the table in memory."""
        table_lock = Deadline(TABLE_LOCK_SECONDS)
        tries_left = TRIES
        while True:
            try:
                if self._owns_connections:
                    _ensure_autocommit(connection)
                self._check_size(connection, batch)
                return self._write_fenced(connection, batch)
            except Error as error:
                # It may have ended the caller's transaction, if there is one: the caller must know.
                if connection.in_atomic_block:
                    raise
                if is_table_lock(error) and table_lock.left():
                    time.sleep(TABLE_LOCK_PAUSE)
                    continue
                tries_left -= 1
                if not tries_left or not self._can_try_again(connection, batch, error):
                    raise

    def _can_try_again(
        self, connection: BaseDatabaseWrapper, batch: Sequence[PendingTask], error: Error
    ) -> bool:
        """Return whether to try again at once after an error; if the connection was closed, make
        ready for a new one."""
        is_connected = connection.connection is not None
        if is_connected and is_disconnect(error):
            # A server closes idle connections, or is restarted: that alone is no outage.  A pool,
            # Django's or PgBouncer, may hand out such connections even to those who just came.
            logger.debug("The connection was closed, connecting again: %s.", summarize(error))
            _end(connection)
            for pending in batch:
                pending.maybe_committed = True
            # It may also have been too large a statement that the server hung up on.
            self._packet_bytes = None
            return True
        if is_conflict(error):
            logger.debug("Another writer was in the way, trying again: %s.", summarize(error))
            return True
        return False

    def _check_size(self, connection: BaseDatabaseWrapper, batch: Sequence[PendingTask]) -> None:
        """Refuse a batch of several rows that may be more than the server takes.

        A server that is sent too much may hang up, as if it were down.  So after a lost connection
        it is asked for its limit.  The writer halves a batch that is refused, as it does for bad
        data.  Whether a single row is too large is for the server to say.
        """
        if self._packet_bytes is None:
            self._packet_bytes = _max_allowed_packet(connection)
        room = self._packet_bytes - _STATEMENT_BYTES
        is_suspect = len(batch) > 1 and may_be_large(batch, room)
        if is_suspect and sum(pending.statement_bytes() for pending in batch) > room:
            raise BadDataError(f"{len(batch)} rows may be more than max_allowed_packet")

    def _enter_fence(self, connection: BaseDatabaseWrapper) -> Fence:
        """Enter the fence in a transaction, and remember what is known of the last clear."""
        known = self._fences.get(connection.alias)
        fence = self._fences[connection.alias] = enter_fence(connection, self._clock, known)
        return fence

    def is_in_transaction(self) -> bool:
        """Return whether the calling thread is inside ``transaction.atomic``."""
        return connections[conf.tasks_database()].in_atomic_block

    def close_stale_connections(self) -> None:
        """Close connections that are broken, or older than ``CONN_MAX_AGE``.  Check them after a
        failure, when there is a new one, and else now and then.  After an outage, close the one
        that writes: it may be to a server that was made read-only, while another server has taken
        over its address.

        With a ``CONN_MAX_AGE`` of 0, a connection is kept for as long as the writer is busy: to
        connect can cost more than the flush itself.
        """
        self._owns_connections = True
        now = self._clock()
        if now >= self._next_connection_check:
            self._next_connection_check = now + CONNECTION_CHECK_SECONDS
            self._check_connections()
        if isinstance(threading.current_thread(), WriterThread):
            # With DEBUG, Django keeps the last 9,000 statements of each connection until the next
            # request.  Here these are whole batches, and this thread has no requests.
            for connection in self._connections:
                connection.queries_log.clear()

    def _check_connections(self) -> None:
        if self._needs_new_connection:
            self._needs_new_connection = False
            _end(connections[conf.tasks_database()])
        for connection in _connections_of_this_thread():
            if connection.settings_dict["CONN_MAX_AGE"] == 0:
                connection.close_at = None
            connection.close_if_unusable_or_obsolete()
        self._connections = _connections_of_this_thread()

    def close_idle_connections(self) -> None:
        """Close connections that are broken or have reached their ``CONN_MAX_AGE``; 0 means now."""
        for connection in _connections_of_this_thread():
            if connection.settings_dict["CONN_MAX_AGE"] == 0:
                connection.close()
        self._next_connection_check = -math.inf
        self.close_stale_connections()

    def close(self) -> None:
        """Close all connections of this thread, which ends; those of receivers as well."""
        for connection in _connections_of_this_thread():
            connection.close()
            if connection.connection is not None:  # An SQLite in memory.
                BaseDatabaseWrapper.close(connection)
        self._connections = []

    def _note_outage(self) -> None:
        self._next_connection_check = -math.inf
        self._needs_new_connection = True

    def _note_connection(self, **_: Any) -> None:
        if threading.get_ident() == self._thread:
            self._next_connection_check = -math.inf


@contextlib.contextmanager
def preparing_values() -> Iterator[None]:
    """Turn errors of the client's own side in this block into ``BadDataError``: those of Django's
    fields, of the driver, or of the code that builds a statement's parameters.  Elsewhere, the same
    errors are bugs, or signs of a wrong setup.

    Raises:
      BadDataError: In place of such an error, which is its cause.
    """
    try:
        yield
    except Exception as error:
        if is_unfit_value(error):
            raise BadDataError(summarize(error)) from error
        raise


@contextlib.contextmanager
def left_usable(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """However the block ends, leave the connection in autocommit, or closed, or as the caller's
    transaction has it.

    Test runners forbid access between two tests, in all threads, by an ``ensure_connection`` that
    raises.  Django calls that while it makes a connection, and again at the end of a transaction,
    before it turns autocommit on.  A connection that this happens to would stay in a transaction
    for good, with all that is written through it.  Django's ``close`` does nothing to an SQLite in
    memory.
    """
    was_open = connection.connection is not None
    was_in_autocommit = was_open and connection.autocommit
    try:
        yield
    except BaseException:
        if not connection.in_atomic_block and connection.connection is not None:
            if not was_open:
                _end_pooled(connection)
                BaseDatabaseWrapper.close(connection)
            elif was_in_autocommit and not connection.autocommit:
                with contextlib.suppress(Error):  # It is broken, and closed before the next try.
                    connection.rollback()
                    # Not by set_autocommit(), which is what is forbidden.
                    connection._set_autocommit(autocommit=True)  # type: ignore[attr-defined]
                    connection.autocommit = True
        raise


def _ensure_autocommit(connection: BaseDatabaseWrapper) -> None:
    """Let each statement be committed by itself.  In the writer's thread, a receiver may have left
    a transaction open, or the settings of the database say ``AUTOCOMMIT = False``.  What isn't
    committed is rolled back, as at the end of a connection."""
    if connection.in_atomic_block or connection.get_autocommit():
        return
    connection.rollback()
    connection.set_autocommit(True)


def in_portions(items: Sequence[Item], connection: BaseDatabaseWrapper) -> Iterator[Sequence[Item]]:
    """Cut ``items`` into portions of as many parameters as a statement may have."""
    size = connection.features.max_query_params or max(1, len(items))
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _max_allowed_packet(connection: BaseDatabaseWrapper) -> float:
    """Return how many bytes a statement may take: MariaDB and MySQL have a limit."""
    if connection.vendor != "mysql":
        return math.inf
    with connection.cursor() as cursor:
        cursor.execute("SELECT @@max_allowed_packet")
        (limit,) = cursor.fetchone()
    return float(limit)


def _is_usable(connection: BaseDatabaseWrapper) -> bool:
    """Return whether the server answers on a connection."""
    return connection.connection is not None and connection.is_usable()


def _end(connection: BaseDatabaseWrapper) -> None:
    """Close a connection for good.  If it is from a pool, close all others there that are closed by
    the server, too."""
    if connection.in_atomic_block:
        return
    pool = _end_pooled(connection)
    connection.close()
    if pool is not None:
        pool.check()


def _end_pooled(connection: BaseDatabaseWrapper) -> Any:
    """End the session of a connection from a pool, which replaces it by another one.  Return the
    pool, or None if there is none."""
    pool: Any = getattr(connection, "pool", None)  # From Django 5.1 on.
    if pool is not None and connection.connection is not None:
        connection.connection.close()
    return pool


def _connections_of_this_thread() -> list[BaseDatabaseWrapper]:
    try:
        return list(connections.all(initialized_only=True))
    except TypeError:  # Django before 4.1 has no such argument, and opens none either.
        return list(connections.all())
