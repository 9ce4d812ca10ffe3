"""Where batches are written: what the writer needs of a store, and nothing more."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, Sequence

from ..buffer import Entry


class Change(NamedTuple):
    """A row that a flush changed."""

    task: Any
    entry: Entry


class Written(NamedTuple):
    """What became of a batch."""

    #: How many rows were inserted or changed; on MariaDB, all that were sent while nobody listens.
    rows: int
    #: How many already held the same fact, or a newer one, or were cleared or deleted meanwhile.
    unchanged: int
    #: Those that were inserted or changed, if somebody listens.
    changes: Sequence[Change]


class BadDataError(Exception):
    """The database refused a value of the batch: no retry can help."""


class Store(Protocol):
    """Writes batches, in one thread.

    It holds that thread's connections after ``tidy``: a forked child keeps the parent's store,
    so that it never closes what is the parent's.
    """

    def write(self, batch: Sequence[Entry]) -> Written:
        """Commit a batch, whole or not at all; each message is in it once.

        Raises:
          BadDataError: If the database refuses a value: the writer looks for the row.
          Exception: Anything else is an outage: the writer keeps the batch and tries again.
        """

    def is_in_transaction(self) -> bool:
        """Return whether the calling thread is in a transaction of its own: a batch written
        now would be committed, or not, with that."""

    def tidy(self) -> None:
        """Close connections that are broken or too old; called before and after a flush."""

    def rest(self) -> None:
        """Close connections that should not outlive a quiet second; called after one."""

    def close(self) -> None:
        """Close the connections of the calling thread."""
