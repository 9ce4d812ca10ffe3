"""What all stores share: which database, what its errors mean, and when to try again."""

from __future__ import annotations

import abc
import logging
import math
import threading
import time
from typing import Any, Callable, Iterator, Sequence, TypeVar

from django.db import Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from .. import conf
from ..buffer import Entry, may_be_large
from . import BadDataError, Written
from .errors import describe, is_bad_data, is_conflict, is_disconnect

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

#: How often a batch is tried at once when another writer was in the way, or the connection closed.
TRIES = 4

#: What a statement takes besides its rows, in bytes: the text of MariaDB's upsert above all.
_STATEMENT_BYTES = 32 * 1024

#: While all goes well, a busy writer looks after its connections this often: a look at them costs
#: a tenth of a small flush.
TIDY_SECONDS = 1.0


class DatabaseStore(abc.ABC):
    """Writes batches through one of Django's connections.

    Parameters:
      clock(Callable): The monotonic clock that ``Transition.happened_at`` was read from.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: Never read: it keeps them alive in a forked child, which would close the parent's if it
        #: collected them.
        self._connections: list[BaseDatabaseWrapper] = []
        self._tidy_again_at = -math.inf
        #: After an outage: what answers may still be a server that takes no writes any more.
        self._needs_new_connection = False
        self._thread = threading.get_ident()
        #: How many bytes the server takes in a statement; None until it was asked.
        self._packet_bytes: float | None = None
        connection_created.connect(self._note_connection)

    @abc.abstractmethod
    def _write_once(self, connection: BaseDatabaseWrapper, batch: Sequence[Entry]) -> Written:
        """Try once to commit a batch; in a transaction of the caller's, leave that usable."""

    def write(self, batch: Sequence[Entry]) -> Written:
        """Commit a batch; see ``Store.write``.  Inside a transaction it takes a savepoint."""
        connection = connections[conf.tasks_database()]
        try:
            return self._write_patiently(connection, batch)
        except BadDataError:
            raise  # It is too large, and was not sent: the connection is as good as ever.
        except Exception as error:
            self._tidy_again_at = -math.inf
            if is_bad_data(error):
                raise BadDataError(describe(error)) from error
            self._needs_new_connection = True
            raise

    def _write_patiently(self, connection: BaseDatabaseWrapper, batch: Sequence[Entry]) -> Written:
        for _ in range(TRIES - 1):
            try:
                return self._write_what_fits(connection, batch)
            except Error as error:
                # It has ended the caller's transaction, if there was one: the caller has to know.
                if connection.in_atomic_block:
                    raise
                could_connect = connection.connection is not None
                if could_connect and is_disconnect(error):
                    # A server closes what is idle, or is restarted: that alone is no outage.  A
                    # pool, Django's or PgBouncer, gives such connections to those who just came.
                    logger.debug("The connection was closed, connecting again: %s", describe(error))
                    _end(connection)
                    for entry in batch:
                        entry.uncertain = True
                elif is_conflict(error):
                    logger.debug("Another writer was in the way, trying again: %s", describe(error))
                else:
                    raise
        return self._write_what_fits(connection, batch)

    def _write_what_fits(self, connection: BaseDatabaseWrapper, batch: Sequence[Entry]) -> Written:
        """Try once, unless the batch may be more than the server takes: it would hang up, as if
        it were down.  Then the writer halves it, as it does for bad data; whether a single row is
        too large, the server decides."""
        if self._packet_bytes is None:
            self._packet_bytes = _packet_bytes(connection)
        room = self._packet_bytes - _STATEMENT_BYTES
        is_suspect = len(batch) > 1 and may_be_large(batch, room)
        if is_suspect and sum(entry.size() for entry in batch) > room:
            raise BadDataError(f"{len(batch)} rows may be more than max_allowed_packet")
        return self._write_once(connection, batch)

    def is_in_transaction(self) -> bool:
        """Return whether the calling thread is inside ``transaction.atomic``."""
        return connections[conf.tasks_database()].in_atomic_block

    def tidy(self) -> None:
        """Close connections that are broken, or older than ``CONN_MAX_AGE``: after a failure, when
        there is a new one, and else now and then.  After an outage, close the one that writes: it
        may be to a server that was made read-only, while another one has taken over its address.

        What is to be closed at once (0) is kept for as long as the writer is busy: to connect
        can cost more than the flush itself.
        """
        now = self._clock()
        if now < self._tidy_again_at:
            return
        self._tidy_again_at = now + TIDY_SECONDS
        if self._needs_new_connection:
            self._needs_new_connection = False
            _end(connections[conf.tasks_database()])
        for connection in _connections_of_this_thread():
            if connection.settings_dict["CONN_MAX_AGE"] == 0:
                connection.close_at = None
            connection.close_if_unusable_or_obsolete()
        self._connections = _connections_of_this_thread()

    def rest(self) -> None:
        """Close connections that are broken or have reached their age; 0 means now."""
        for connection in _connections_of_this_thread():
            if connection.settings_dict["CONN_MAX_AGE"] == 0:
                connection.close()
        self._tidy_again_at = -math.inf
        self.tidy()

    def close(self) -> None:
        """Close the connections of this thread, receivers' included."""
        connections.close_all()
        self._connections = []

    def _note_connection(self, **_: Any) -> None:
        if threading.get_ident() == self._thread:
            self._packet_bytes = None
            self._tidy_again_at = -math.inf


def in_portions(items: Sequence[Item], connection: BaseDatabaseWrapper) -> Iterator[Sequence[Item]]:
    """Cut ``items`` into portions of as many parameters as a statement may have."""
    size = connection.features.max_query_params or max(1, len(items))
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _packet_bytes(connection: BaseDatabaseWrapper) -> float:
    """Return how many bytes a statement may take: MariaDB and MySQL have a limit."""
    if connection.vendor != "mysql":
        return math.inf
    with connection.cursor() as cursor:
        cursor.execute("SELECT @@max_allowed_packet")
        (limit,) = cursor.fetchone()
    return float(limit)


def _end(connection: BaseDatabaseWrapper) -> None:
    """Close a connection for good, and the like of it in its pool, if it is from one."""
    if connection.in_atomic_block:
        return
    pool: Any = getattr(connection, "pool", None)  # From Django 5.1 on.
    if pool is not None and connection.connection is not None:
        connection.connection.close()
    connection.close()
    if pool is not None:
        pool.check()


def _connections_of_this_thread() -> list[BaseDatabaseWrapper]:
    try:
        return list(connections.all(initialized_only=True))
    except TypeError:  # Django before 4.1 has no such argument, and opens none either.
        return list(connections.all())
