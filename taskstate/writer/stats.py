"""``Stats``: what the writers of a process have done so far."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Optional


@dataclasses.dataclass(frozen=True)
class Stats:
    """What the writers of a process have done so far; see ``taskstate.stats``."""

    #: Messages that wait to be written.  Transitions that are not coalesced yet count one by one.
    pending: int = 0
    #: Transitions that were taken from the queue.
    transitions: int = 0
    #: Commits.
    flushes: int = 0
    #: Rows that were inserted or changed.  On MariaDB, all rows that were sent if ``task_changed``
    #: has no receivers.
    rows_written: int = 0
    #: Rows that were already up to date, or were cleared meanwhile.
    rows_unchanged: int = 0
    #: States that were dropped because more than ``MAX_PENDING`` messages waited, or because they
    #: took more memory than ``MAX_PENDING_BYTES``.
    dropped: int = 0
    #: Rows that the database rejected as bad data.
    rejected: int = 0
    #: Flushes that failed, and rows that exceeded the database's time limit.  They are tried again,
    #: except in synchronous mode.
    failed_flushes: int = 0
    #: The last failure as text, or None.
    last_error: str | None = None
    #: How long the last commit took, in seconds, or None.
    last_flush_seconds: float | None = None
    #: How long ago the oldest transition that waits happened, in seconds; 0 if none waits.
    oldest_pending_seconds: float = 0.0
    #: About how much memory the messages take that wait to be written, in bytes.
    pending_bytes: int = 0

    def __add__(self, later: Stats) -> Stats:
        """Return the sums of both.  The last error and the last flush are those of ``later``, if it
        has any."""
        took = later.last_flush_seconds
        return Stats(
            pending=self.pending + later.pending,
            transitions=self.transitions + later.transitions,
            flushes=self.flushes + later.flushes,
            rows_written=self.rows_written + later.rows_written,
            rows_unchanged=self.rows_unchanged + later.rows_unchanged,
            dropped=self.dropped + later.dropped,
            rejected=self.rejected + later.rejected,
            failed_flushes=self.failed_flushes + later.failed_flushes,
            last_error=later.last_error or self.last_error,
            last_flush_seconds=self.last_flush_seconds if took is None else took,
            oldest_pending_seconds=max(self.oldest_pending_seconds, later.oldest_pending_seconds),
            pending_bytes=self.pending_bytes + later.pending_bytes,
        )


class StatsRecorder:
    """Counts what one writer does."""

    def __init__(self) -> None:
        self.totals = Stats()

    def add(self, **what: Any) -> None:
        """Add to the totals; the arguments are fields of ``Stats``."""
        self.totals += Stats(**what)


#: Called when the statistics of a writer have changed, with a function that returns them, and how
#: many seconds the flush took that was just committed (None if there was none).
Observer = Callable[[Callable[[], Stats], Optional[float]], None]


def no_observer(stats: Callable[[], Stats], seconds: float | None) -> None:
    """Do nothing."""
