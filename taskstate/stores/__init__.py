"""The interface of a store.  What its errors mean to the writer is in ``errors``."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, Sequence

from taskstate.transitions.pending import PendingTask


class Change(NamedTuple):
    """A row that was changed."""

    #: The row as it is now.
    task: Any
    #: What it was written from.
    pending: PendingTask


class Written(NamedTuple):
    """The result of writing a batch."""

    #: How many rows were inserted or updated.  On MariaDB, where changes aren't asked for: how many
    #: were sent.
    rows: int
    #: How many were left as they are: they were up to date, or cleared or deleted meanwhile.
    unchanged: int
    #: The rows that were inserted or updated; empty where changes aren't asked for.
    changes: Sequence[Change]


class BadDataError(Exception):
    """A value of the batch was refused, by the database or by the client that prepares it.  To try
    again does not help."""


class TimeLimitError(Exception):
    """The server ended the statement because it took too long.  A smaller batch may succeed."""


class Store(Protocol):
    """Writes batches, in one thread.

    It keeps references to that thread's connections: a forked child keeps the parent's store, so
    that it never closes the parent's connections.
    """

    def write(self, batch: Sequence[PendingTask]) -> Written:
        """Commit a batch, as a whole or not at all.  Each message is in it once.

        Raises:
          BadDataError: A value was refused.  The writer looks for its row.
          TimeLimitError: The server has ended the statement.  The writer halves the batch.
          Exception: Anything else is an outage.  The writer keeps the batch and tries again.
        """

    def is_in_transaction(self) -> bool:
        """Return whether the calling thread is in a transaction of its own.  A batch that is
        written now is committed, or rolled back, with that transaction."""

    def close_stale_connections(self) -> None:
        """Close connections that are broken or too old.  Called before and after each flush."""

    def close_idle_connections(self) -> None:
        """Close connections that should not stay open while the writer is idle.  Called when it
        has been idle for a second."""

    def close(self) -> None:
        """Close the connections of the calling thread."""
