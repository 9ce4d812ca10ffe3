"""The base class of the stores: retries, the size limit, errors, and connections."""

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
    is_client_rejection,
    is_conflict,
    is_disconnect,
    is_table_lock,
    is_time_limit,
    summarize,
)
from taskstate.stores.fence import Fence, enter_fence
from taskstate.transitions.pending import PendingTask, may_be_large
from taskstate.utils.sync import Deadline, WriterThread

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

#: How many times a batch is tried without a pause, if it is in conflict with another writer or if
#: the connection was closed.
TRIES = 4

#: In an SQLite database in memory, a table that another thread reads or writes is locked, and
#: SQLite doesn't wait for that lock.  A write is tried again for this long, with this pause, in
#: seconds.
TABLE_LOCK_SECONDS = 0.25
TABLE_LOCK_PAUSE = 0.005

#: The size of a statement without its rows, in bytes.  MariaDB's upsert is the longest.
_STATEMENT_BYTES = 40 * 1024

#: How often a busy writer checks its connections if there are no errors, in seconds.  A check takes
#: a tenth of the time of a small flush.
CONNECTION_CHECK_SECONDS = 1.0


class DatabaseStore(abc.ABC):
    """Writes batches through one of Django's connections.

    Parameters:
      clock(Callable): The clock of ``Transition.happened_at``: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: The connections of this thread.  The reference also keeps them alive in a forked child:
        #: if they were deleted there, the parent's would be closed.
        self._connections: list[BaseDatabaseWrapper] = []
        self._next_connection_check = -math.inf
        #: True after an outage: the server that answers then may be read-only.
        self._needs_new_connection = False
        self._thread = threading.get_ident()
        #: What is known of the last clear, by database.
        self._fences: dict[str, Fence] = {}
        #: Whether the writer uses the connections of this thread for nothing else.  This is not an
        #: argument of the constructor, since ``Flusher`` has it already: only a flusher that owns
        #: its connections calls ``close_stale_connections``.  So the two can't contradict.
        self._owns_connections = False
        #: The greatest size of a statement that the server accepts, in bytes; None if the server
        #: must be asked for it.
        self._packet_bytes: float | None = math.inf
        connection_created.connect(self._note_connection)

    @abc.abstractmethod
    def _write_fenced(
        self, connection: BaseDatabaseWrapper, batch: Sequence[PendingTask]
    ) -> Written:
        """Try once to commit a batch, without the transitions from before the last clear.

        If the caller has begun a transaction, it must stay usable after a failure.  Values must be
        prepared and sent inside ``preparing_values``.  Rows must be locked in the order of their
        ids: if two processes lock the same rows in different orders, each waits for a row that the
        other one has locked, and the database ends one of them with a deadlock.
        """

    def write(self, batch: Sequence[PendingTask]) -> Written:
        """Commit a batch; see ``Store.write``.  Inside a transaction, write it in a savepoint."""
        connection = connections[conf.tasks_database()]
        try:
            with left_usable(connection):
                return self._write_with_retries(connection, batch)
        except BadDataError as error:
            # Usually the batch was not sent: it is too large, or the client rejects a value.  But a
            # driver raises the same errors if its connection is broken.  That is an outage.
            cause = error.__cause__
            if cause is None or _is_usable(connection):
                raise
            self._note_outage()
            raise cause  # noqa: B904 - it is the cause of the other error
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
        """Commit a batch.  After a conflict, or if the connection was closed, try again at once.
        If another thread uses the table in memory, try again after a short pause."""
        table_lock = Deadline(TABLE_LOCK_SECONDS)
        tries_left = TRIES
        while True:
            try:
                if self._owns_connections:
                    _ensure_autocommit(connection)
                self._check_size(connection, batch)
                return self._write_fenced(connection, batch)
            except Error as error:
                # The error may have ended the caller's transaction, so the caller must get it.
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
        """Return whether to try again at once after an error.  If the connection was closed,
        prepare for a new one."""
        is_connected = connection.connection is not None
        if is_connected and is_disconnect(error):
            # A server closes idle connections, or was restarted: that alone is not an outage.  Even
            # a connection that a pool (Django's, or PgBouncer) has just returned may be closed.
            logger.debug("The connection was closed, connecting again: %s.", summarize(error))
            _end(connection)
            for pending in batch:
                pending.maybe_committed = True
            # The server may also have closed it because the statement was too large.
            self._packet_bytes = None
            return True
        if is_conflict(error):
            logger.debug("In conflict with another writer, trying again: %s.", summarize(error))
            return True
        return False

    def _check_size(self, connection: BaseDatabaseWrapper, batch: Sequence[PendingTask]) -> None:
        """Reject a batch of several rows if it may exceed the server's limit.  The flusher halves
        it then, as it does for bad data.  A single row is always sent.

        A server that gets a larger statement may close the connection, as in an outage.  So it is
        asked for its limit after a connection was lost.

        Raises:
          BadDataError: If the batch may be too large.
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
        """Close connections that are broken, or older than ``CONN_MAX_AGE``.

        They are checked after a failure, after a new connection was made, and otherwise once in
        ``CONNECTION_CHECK_SECONDS``.  After an outage, the one to the tasks' database is closed:
        its server may be read-only now, and another server may have got its address.

        With a ``CONN_MAX_AGE`` of 0, a connection is kept for as long as the writer is busy, since
        connecting may take longer than the flush.
        """
        self._owns_connections = True
        now = self._clock()
        if now >= self._next_connection_check:
            self._next_connection_check = now + CONNECTION_CHECK_SECONDS
            self._check_connections()
        if isinstance(threading.current_thread(), WriterThread):
            # With DEBUG, Django keeps the last 9,000 statements of each connection until the next
            # request.  These are whole batches, and this thread has no requests.
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
        """Close all connections of this thread, also those of receivers: the thread ends."""
        for connection in _connections_of_this_thread():
            connection.close()
            if connection.connection is not None:  # An SQLite database in memory.
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
    """In this block, turn the client's errors about a value into ``BadDataError``: those of
    Django's fields, of the driver, and of the code that builds the parameters of a statement.
    Elsewhere, the same errors are bugs, or signs of a wrong setup.

    Raises:
      BadDataError: Replaces such an error, which becomes its cause.
    """
    try:
        yield
    except Exception as error:
        if is_client_rejection(error):
            raise BadDataError(summarize(error)) from error
        raise


@contextlib.contextmanager
def left_usable(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """If the block raises, leave the connection in autocommit, closed, or in the transaction that
    the caller has begun.

    Test runners forbid access between two tests, in all threads, by an ``ensure_connection`` that
    raises.  Django calls it while it makes a connection, and again at the end of a transaction,
    before it turns autocommit on.  Without this function, the connection would then stay in a
    transaction, and what is written through it would never be committed.  Django's ``close`` has no
    effect on an SQLite database in memory.
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
                _return_to_autocommit(connection)
        raise


def _return_to_autocommit(connection: BaseDatabaseWrapper) -> None:
    """Roll back, and turn autocommit on without ``set_autocommit``, which calls
    ``ensure_connection``."""
    with contextlib.suppress(Error):  # It is broken.  The next try closes it.
        connection.rollback()
        connection._set_autocommit(autocommit=True)  # type: ignore[attr-defined]
        connection.autocommit = True


def _ensure_autocommit(connection: BaseDatabaseWrapper) -> None:
    """Turn autocommit on in the writer's thread, if a receiver has left a transaction open, or if
    the settings of the database have ``AUTOCOMMIT = False``.  An open transaction is rolled back,
    as at the end of a connection."""
    if connection.in_atomic_block or connection.get_autocommit():
        return
    connection.rollback()
    connection.set_autocommit(True)


def in_portions(items: Sequence[Item], connection: BaseDatabaseWrapper) -> Iterator[Sequence[Item]]:
    """Split ``items`` into portions that have as many items as a statement may have parameters."""
    size = connection.features.max_query_params or max(1, len(items))
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _max_allowed_packet(connection: BaseDatabaseWrapper) -> float:
    """Return the greatest size of a statement in bytes.  Only MariaDB and MySQL have a limit."""
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
    """Close a connection.  If it is from a pool, end its session, and let the pool remove all
    connections that the server has closed.  Inside a transaction, do nothing."""
    if connection.in_atomic_block:
        return
    pool = _end_pooled(connection)
    connection.close()
    if pool is not None:
        pool.check()


def _end_pooled(connection: BaseDatabaseWrapper) -> Any:
    """End the session of a connection from a pool; the pool then replaces it.  Return the pool, or
    None if there is none."""
    pool: Any = getattr(connection, "pool", None)  # From Django 5.1 on.
    if pool is not None and connection.connection is not None:
        connection.connection.close()
    return pool


def _connections_of_this_thread() -> list[BaseDatabaseWrapper]:
    try:
        return list(connections.all(initialized_only=True))
    except TypeError:  # Django before 4.1 neither has nor needs this argument.
        return list(connections.all())
