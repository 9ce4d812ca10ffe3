"""``StateMiddleware``: Dramatiq's hooks become transitions."""

from __future__ import annotations

import logging
import time
from typing import Any, Callable

import dramatiq

from taskstate import conf
from taskstate.conf import Options
from taskstate.signals import task_changed
from taskstate.stores import Change, Store
from taskstate.tracking.enqueueing import EnqueueingHooks
from taskstate.tracking.fields import FieldCollector
from taskstate.tracking.processing import ProcessingHooks
from taskstate.tracking.sink import TransitionSink
from taskstate.writer import lifecycle
from taskstate.writer.metrics import Meter
from taskstate.writer.stats import Observer
from taskstate.writer.synchronous import SynchronousWriter
from taskstate.writer.writer import Writer

__all__ = ["StateMiddleware"]

logger = logging.getLogger(__name__)


class StateMiddleware(EnqueueingHooks, ProcessingHooks):
    """Keeps the ``Task`` row of each tracked message up to date.

    A message is tracked if it carries a ``for_state`` dictionary, as an argument or as an option,
    or if its actor was declared with one.  The middleware works at any position among the others.
    Constructing it starts no thread and imports no model; it only registers a system check.

    Hooks only append to a queue.  They never touch the database, never wait and never raise, with
    these exceptions: with ``SYNCHRONOUS`` each hook writes; with ``FLUSH_BEFORE_ACK`` the hooks
    before an acknowledgment wait for a commit, and raise if it does not come before the worker
    stops; the project's ``TENANT`` function runs in the hook; the end of a worker waits for the
    last flush; and a ``for_state`` that can't be encoded raises a ``TypeError`` in the code that
    sends the message.  They are repeatable, too: Dramatiq raises exceptions in worker threads
    between any two bytecodes, in hooks as well.

    Parameters (each wins over the same key in the ``TASKSTATE`` setting):
      flush_interval(float): Under load, at most one flush per this many seconds; 0 sets no limit.
      max_batch_size(int): Rows per batch.
      max_pending(int): Messages that are kept through an outage.
      max_pending_bytes(int): About how much memory they may take, in bytes.
      shutdown_timeout(float): Seconds that the last flush of a process may take.
      flush_before_ack(bool): Acknowledge a message only after its final state is committed.
      synchronous(bool): Write each transition at once, in the calling thread; for tests.
      keep_message(bool): Keep the message with its task, so that it can be sent again.
      store(str): How rows are written: "auto", "orm" or "upsert".

    Raises:
      ImproperlyConfigured: If a parameter is of the wrong type or out of range.
    """

    def __init__(
        self,
        *,
        flush_interval: float | None = None,
        max_batch_size: int | None = None,
        max_pending: int | None = None,
        max_pending_bytes: int | None = None,
        shutdown_timeout: float | None = None,
        flush_before_ack: bool | None = None,
        synchronous: bool | None = None,
        keep_message: bool | None = None,
        store: str | None = None,
    ) -> None:
        options = Options(
            flush_interval=flush_interval,
            max_batch_size=max_batch_size,
            max_pending=max_pending,
            max_pending_bytes=max_pending_bytes,
            shutdown_timeout=shutdown_timeout,
            flush_before_ack=flush_before_ack,
            synchronous=synchronous,
            keep_message=keep_message,
            store=store,
        )
        collector = FieldCollector(options)
        self._writer, synchronous_writer = _make_writers(options, collector, self._open_store)
        sink = TransitionSink(options, self._writer, synchronous_writer)
        super().__init__(options, collector, sink)
        conf.register_app_check()

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: Any) -> None:
        """From now on, let no thread wait for the database longer than ``SHUTDOWN_TIMEOUT``."""
        self._sink.stopping_since = time.monotonic()

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: Any) -> None:
        """Write what is pending, for a limited time."""
        try:
            self._writer.stop()
        except Exception:
            logger.exception("The last flush of this worker failed.")
        self._sink.stopping_since = None

    def _open_store(self) -> Store:
        # Here, because the middleware is made before models can be imported.
        from taskstate.stores.selection import open_store

        return open_store(self._options.store, _has_receivers)


def _make_writers(
    options: Options, collector: FieldCollector, open_store: Callable[[], Store]
) -> tuple[Writer, SynchronousWriter]:
    writer = Writer(
        options=options,
        normalize=collector.normalize,
        open_store=open_store,
        announce=_announce,
        register=lifecycle.register,
        make_observer=_make_observer,
    )
    synchronous_writer = SynchronousWriter(
        normalize=collector.normalize,
        open_store=open_store,
        announce=_announce,
        register=lifecycle.register,
        make_observer=_make_observer,
        fallback=writer,
    )
    return writer, synchronous_writer


def _make_observer() -> Observer:
    return Meter().observe


def _has_receivers() -> bool:
    return task_changed.has_listeners(StateMiddleware)


def _announce(change: Change) -> None:
    """Send ``task_changed`` for a row.  Django logs a receiver that raises an ``Exception``."""
    task_changed.send_robust(
        sender=StateMiddleware, task=change.task, transitions=change.pending.statuses
    )
