"""The interface of a store.  ``errors`` decides which error a store raises."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, Sequence

from taskstate.transitions.pending import PendingTask


class Change(NamedTuple):
    """A row that was changed."""

    #: The row as it is now.
    task: Any
    #: The pending task that it was written from.
    pending: PendingTask


class Written(NamedTuple):
    """The result of writing a batch."""

    #: How many rows were inserted or updated.  On MariaDB, all rows that were sent if
    #: ``task_changed`` has no receivers.
    rows: int
    #: How many were not written: they were up to date, or were cleared or deleted meanwhile.
    unchanged: int
    #: The rows that were inserted or updated.  The upsert store leaves it empty if ``task_changed``
    #: has no receivers.
    changes: Sequence[Change]


class BadDataError(Exception):
    """The database, or the client that prepares the batch, rejects a value of it.  Another try
    would fail in the same way."""


class TimeLimitError(Exception):
    """The server ended the statement because it took too long.  A smaller batch may succeed."""


class Store(Protocol):
    """Writes batches, in one thread.

    It holds references to the connections of that thread.  So a forked child that keeps the store
    of its parent never closes the parent's connections.
    """

    def write(self, batch: Sequence[PendingTask]) -> Written:
        """Commit a batch, as a whole or not at all.  Each message is in it once.

        Raises:
          BadDataError: A value is rejected.  The flusher looks for its row.
          TimeLimitError: The server has ended the statement.  The flusher halves the batch.
          Exception: Any other error is an outage.  The writer keeps the batch and tries again.
        """

    def is_in_transaction(self) -> bool:
        """Return whether the calling thread has begun a transaction.  A batch that is written now
        is committed, or rolled back, with that transaction."""

    def close_stale_connections(self) -> None:
        """Close connections that are broken or too old.  Called before and after each flush, but
        only by a writer that owns the connections of its thread."""

    def close_idle_connections(self) -> None:
        """Close connections that should not stay open while the writer is idle.  Called when it
        has been idle for a second."""

    def close(self) -> None:
        """Close the connections of the calling thread."""
