"""Metrics for Prometheus, in processes that have loaded its client anyway.

Whoever loads ``prometheus_client`` has decided by then whether the processes share their values in
files, as Dramatiq's own Prometheus middleware has them do, so this module never loads it first:
where nobody else uses it, there are no metrics, and a flush pays for one look into ``sys.modules``.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import Any, Callable

from . import process
from .flusher import Stats

logger = logging.getLogger(__name__)

#: From a quick statement on the same host to a database that is about to give up, in seconds.
FLUSH_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The metrics of this process, in the default registry of ``prometheus_client``.

    Parameters:
      client(module): ``prometheus_client``.

    Raises:
      ValueError: If the registry holds metrics of these names already.
      OSError: If the files that the processes share can't be had.
    """

    def __init__(self, client: Any) -> None:
        self._transitions = client.Counter(
            "taskstate_transitions_total", "Transitions of tracked messages that were seen."
        )
        rows = client.Counter(
            "taskstate_rows_total",
            "Rows that were written, that were as new or newer already, and that the database "
            "refused as bad data.",
            ["result"],
        )
        self._written = rows.labels("written")
        self._unchanged = rows.labels("unchanged")
        self._refused = rows.labels("refused")
        self._failures = client.Counter(
            "taskstate_flush_failures_total", "Flushes that failed, to be tried again."
        )
        self._dropped = client.Counter(
            "taskstate_dropped_total", "Facts that were given up since too many messages waited."
        )
        self._flush_seconds = client.Histogram(
            "taskstate_flush_seconds",
            "How long the flushes took that were committed.",
            buckets=FLUSH_BUCKETS,
        )
        self._pending = client.Gauge(
            "taskstate_pending_messages",
            "Messages whose states wait to be written.",
            multiprocess_mode="livesum",
        )
        # The time, and not the age: it stays right while the writer waits for the database.  It is
        # 0 if nothing waits, as in a process that has said nothing so far, so it can't be a minimum
        # over the processes.
        self._oldest = client.Gauge(
            "taskstate_oldest_pending_timestamp_seconds",
            "When the oldest transition that waits has happened, in seconds since 1970; 0 if none "
            "waits.",
            multiprocess_mode="liveall",
        )
        # A process of its own answers as of the scrape, a forked one for itself; those that share
        # files can't, and say it flush by flush.
        self._pending.set_function(lambda: process.stats().pending)
        self._oldest.set_function(lambda: oldest_pending_time(process.stats()))

    def count(self, before: Stats, now: Stats) -> None:
        """Add what was done between two statistics of one writer, and say how things stand."""
        for counter, more in (
            (self._transitions, now.transitions - before.transitions),
            (self._written, now.rows_written - before.rows_written),
            (self._unchanged, now.rows_unchanged - before.rows_unchanged),
            (self._refused, now.refused - before.refused),
            (self._failures, now.failures - before.failures),
            (self._dropped, now.dropped - before.dropped),
        ):
            if more:
                counter.inc(more)
        total = process.stats()
        self._pending.set(total.pending)
        self._oldest.set(oldest_pending_time(total))

    def observe_flush(self, seconds: float) -> None:
        """Add a flush that took so long."""
        self._flush_seconds.observe(seconds)


def oldest_pending_time(stats: Stats) -> float:
    """Return when the oldest transition that waits has happened, in seconds since 1970, or 0."""
    age = stats.oldest_pending_seconds
    return time.time() - age if age else 0.0


class _State:
    """What this module keeps; nobody else changes it."""

    def __init__(self) -> None:
        self.metrics: Metrics | None = None
        self.is_broken = False
        # Nobody ever waits for it: a fork could leave it locked.
        self.making = threading.Lock()


_state = _State()


class Meter:
    """Turns what one flusher did into metrics; a forked child's flusher has a new one."""

    def __init__(self) -> None:
        self._counted = Stats()

    def observe(self, stats: Callable[[], Stats], seconds: float | None) -> None:
        """Take note of a step of the flusher.  What goes wrong is logged once, and ends the
        metrics of this process, and nothing else.

        Parameters:
          stats(Callable): Returns the flusher's statistics.
          seconds(float): How long a flush took that was just committed, or None.
        """
        if "prometheus_client" not in sys.modules or _state.is_broken:
            return
        try:
            metrics = _state.metrics or _make_metrics()
            if metrics is None:
                return
            now = stats()
            before, self._counted = self._counted, now
            metrics.count(before, now)
            if seconds is not None:
                metrics.observe_flush(seconds)
        except Exception:
            _state.is_broken = True
            logger.exception(
                "The metrics of taskstate end in this process; everything else goes on. Check that "
                "the directory of PROMETHEUS_MULTIPROC_DIR exists and has room, and that nothing "
                "else has metrics whose names begin with taskstate_."
            )


def _make_metrics() -> Metrics | None:
    """Make the metrics, or return None while another thread does."""
    if not _state.making.acquire(blocking=False):
        return None
    try:
        if _state.metrics is None:
            # Here, because it decides at its import where values are kept.  It is loaded, or is
            # about to be: then this waits for it.
            import prometheus_client

            _state.metrics = Metrics(prometheus_client)
    finally:
        _state.making.release()
    return _state.metrics
