"""Where batches are written: what the writer needs of a store, and nothing more."""

from __future__ import annotations

from typing import Any, Iterable, NamedTuple, Protocol, Sequence

from ..buffer import Entry


class Change(NamedTuple):
    """A row that a flush changed."""

    task: Any
    entry: Entry


class Written(NamedTuple):
    """What became of a batch."""

    changes: Sequence[Change]
    #: How many rows already held the same fact, or a newer one, or were cleared meanwhile.
    unchanged: int


class BadDataError(Exception):
    """The database took offence at a value of the batch: no retry can help."""


class Store(Protocol):
    """Writes batches.  Used by one thread at a time, each with connections of its own."""

    def write(self, batch: Sequence[Entry]) -> Written:
        """Commit a batch, whole or not at all; each message is in it once.

        Raises:
          BadDataError: If the database refuses a value: the writer looks for the row.
          Exception: Anything else is an outage: the writer keeps the batch and tries again.
        """

    def tidy(self) -> None:
        """Drop connections that are too old or broken; called before and after a flush."""

    def close(self) -> None:
        """Close the connections of the calling thread."""

    def connections(self) -> Iterable[object]:
        """Return what a forked child must keep alive and never touch, since closing the
        inherited copy of a connection would end the parent's."""
