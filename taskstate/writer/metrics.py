"""Metrics for Prometheus, in processes that have already imported its client.

When ``prometheus_client`` is imported, it decides whether the processes share their values in
files, which Dramatiq's Prometheus middleware sets up before.  So this module never imports it
first.  If no other code uses it, there are no metrics, and a flush only looks into ``sys.modules``.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import Any, Callable

from taskstate.writer import lifecycle
from taskstate.writer.stats import Stats

logger = logging.getLogger(__name__)

#: From a fast statement on the same host to an overloaded database, in seconds.
FLUSH_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The metrics of this process, in the default registry of ``prometheus_client``.

    Parameters:
      client(module): ``prometheus_client``.

    Raises:
      ValueError: If the registry holds metrics of these names already.
      OSError: If the files that the processes share can't be created.
    """

    def __init__(self, client: Any) -> None:
        self._transitions = client.Counter(
            "taskstate_transitions_total", "Transitions of tracked messages."
        )
        rows = client.Counter(
            "taskstate_rows_total",
            "Rows that were written, were already up to date, or were rejected by the database as "
            "bad data.",
            ["result"],
        )
        self._written = rows.labels("written")
        self._unchanged = rows.labels("unchanged")
        self._rejected = rows.labels("rejected")
        self._failed_flushes = client.Counter(
            "taskstate_failed_flushes_total",
            "Flushes that failed, and rows that exceeded the database's time limit.",
        )
        self._dropped = client.Counter(
            "taskstate_dropped_total", "States that were dropped because too many messages waited."
        )
        self._flush_seconds = client.Histogram(
            "taskstate_flush_seconds",
            "How long each commit took.",
            buckets=FLUSH_BUCKETS,
        )
        self._pending = _make_pending(client)
        self._oldest = _make_oldest(client)
        # A process that serves its own metrics calls these functions at each scrape.  Processes
        # that share files can't do that; they write the values at each flush.
        self._pending.set_function(lambda: lifecycle.stats().pending)
        self._oldest.set_function(lambda: oldest_pending_time(lifecycle.stats()))

    def count(self, before: Stats, now: Stats) -> None:
        """Add the difference between two statistics of one writer, and set the gauges."""
        for counter, more in (
            (self._transitions, now.transitions - before.transitions),
            (self._written, now.rows_written - before.rows_written),
            (self._unchanged, now.rows_unchanged - before.rows_unchanged),
            (self._rejected, now.rejected - before.rejected),
            (self._failed_flushes, now.failed_flushes - before.failed_flushes),
            (self._dropped, now.dropped - before.dropped),
        ):
            if more:
                counter.inc(more)
        total = lifecycle.stats()
        self._pending.set(total.pending)
        self._oldest.set(oldest_pending_time(total))

    def observe_flush(self, seconds: float) -> None:
        """Add a flush that took this many seconds."""
        self._flush_seconds.observe(seconds)


def _make_pending(client: Any) -> Any:
    return client.Gauge(
        "taskstate_pending_messages",
        "Messages that wait to be written.",
        multiprocess_mode="livesum",
    )


def _make_oldest(client: Any) -> Any:
    # The time, not the age: it stays correct while the writer waits for the database.  It is 0 if
    # nothing waits, so the minimum of all processes would be useless.
    return client.Gauge(
        "taskstate_oldest_pending_timestamp_seconds",
        "When the oldest transition that waits to be written happened, in seconds since 1970; 0 if "
        "none waits.",
        multiprocess_mode="liveall",
    )


def oldest_pending_time(stats: Stats) -> float:
    """Return when the oldest transition that waits happened, in seconds since 1970; 0 if none
    waits."""
    age = stats.oldest_pending_seconds
    return time.time() - age if age else 0.0


class _State:
    """The state of this module.  No other module changes it."""

    def __init__(self) -> None:
        self.metrics: Metrics | None = None
        self.is_broken = False
        # No thread waits for this lock, since a fork may leave it locked.
        self.making = threading.Lock()


_state = _State()


class Meter:
    """Updates the metrics for one writer.  The writer of a forked child has a new one."""

    def __init__(self) -> None:
        self._counted = Stats()

    def observe(self, stats: Callable[[], Stats], seconds: float | None) -> None:
        """Update the metrics.  An error is logged, and switches off the metrics of this process.

        Parameters:
          stats(Callable): Returns the writer's statistics.
          seconds(float): How long the flush took that was just committed; None if there was none.
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
                "The metrics of taskstate are switched off in this process, since they can't be "
                "updated. Tasks are tracked as usual. Check that the directory "
                "PROMETHEUS_MULTIPROC_DIR exists and has free space, and that no other metrics "
                "have names that begin with taskstate_."
            )


def _make_metrics() -> Metrics | None:
    """Return the metrics, and create them if necessary.  Return None while another thread creates
    them."""
    if not _state.making.acquire(blocking=False):
        return None
    try:
        if _state.metrics is None:
            # Here, because it decides at its import where values are stored: another module must
            # have begun to import it.
            import prometheus_client

            _state.metrics = Metrics(prometheus_client)
    finally:
        _state.making.release()
    return _state.metrics
