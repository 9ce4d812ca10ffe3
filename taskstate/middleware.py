"""``StateMiddleware``: Dramatiq's hooks become transitions."""

from __future__ import annotations

import logging
import time
from typing import Any, Callable

import dramatiq
from dramatiq.broker import MessageProxy

from taskstate import conf
from taskstate.conf import TENANT, Options
from taskstate.signals import task_changed
from taskstate.stores import Change, Store
from taskstate.tracking.encodable import ForStateError
from taskstate.tracking.fields import FieldCollector
from taskstate.tracking.for_state import FOR_STATE, DeclaredActors, merge_for_state
from taskstate.tracking.run import get_run
from taskstate.tracking.sink import NotCommittedError, TransitionSink
from taskstate.tracking.tracker import Tracker
from taskstate.utils import clock
from taskstate.utils.log_text import for_log
from taskstate.writer import lifecycle
from taskstate.writer.metrics import Meter
from taskstate.writer.stats import Observer
from taskstate.writer.synchronous import SynchronousWriter
from taskstate.writer.writer import Writer

__all__ = ["StateMiddleware"]

logger = logging.getLogger(__name__)


class StateMiddleware(dramatiq.Middleware):
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
        self._options = Options(
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
        collector = FieldCollector(self._options)
        self._writer, synchronous_writer = _make_writers(self._options, collector, self._open_store)
        self._actors = DeclaredActors()
        self._sink = TransitionSink(self._options, self._writer, synchronous_writer)
        self._tracker = Tracker(self._options, collector, self._actors, self._sink)
        conf.register_app_check()

    @property
    def actor_options(self) -> set[str]:
        """The options that an actor may be declared with."""
        return {FOR_STATE}

    def after_declare_actor(self, broker: dramatiq.Broker, actor: Any) -> None:
        """Record what the declaration of an actor says about ``for_state``."""
        self._actors.declare(broker, actor)

    # Enqueueing: in a web process, or in a worker that retries or forwards.

    def before_enqueue(self, broker: dramatiq.Broker, message: Any, delay: int | None) -> None:
        """Write into the options of the message what its run needs.

        Raises:
          ForStateError: If its ``for_state`` can't be encoded.
        """
        if self._track(Tracker.before_enqueue, broker, message) or TENANT.function is None:
            return
        try:
            self._tracker.write_tenant_of_followers(message)
        except Exception:
            logger.exception(*_log_arguments(Tracker.write_tenant_of_followers, message))

    def after_enqueue(self, broker: dramatiq.Broker, message: Any, delay: int | None) -> None:
        """Push the transition to ``enqueued`` or ``delayed``."""
        self._track(Tracker.after_enqueue, broker, message, delay)

    # Processing: in the threads of a worker.

    def before_delay_message(self, broker: dramatiq.Broker, message: Any) -> None:
        """Find out whether the broker loses options.  The message is enqueued again later."""
        self._track(Tracker.before_delay_message, broker, message)

    def before_process_message(self, broker: dramatiq.Broker, message: Any) -> None:
        """Push the transition to ``running``."""
        self._track(Tracker.before_process_message, broker, message)

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: Any,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """Record when the run ended, and how.  The acknowledgment decides whether that is
        final."""
        run = get_run(message)
        if exception is None and run is not None:
            run.ended_at = clock.now()
        else:
            self._track(Tracker.after_process_message, broker, message, exception)

    def after_skip_message(self, broker: dramatiq.Broker, message: Any) -> None:
        """Record that the message was skipped."""
        self._track(Tracker.after_skip_message, broker, message)

    def before_ack(self, broker: dramatiq.Broker, message: Any) -> None:
        """Push the transition to ``done`` or ``skipped``, or to ``failed`` if the message raised
        and is not retried."""
        run = get_run(message)
        if run is None:
            return
        try:
            self._tracker.before_ack(message, run)
        except NotCommittedError:
            raise
        except Exception:
            logger.exception(*_log_arguments(Tracker.before_ack, message))

    def before_nack(self, broker: dramatiq.Broker, message: Any) -> None:
        """Push the transition to ``failed`` or ``skipped``."""
        self._track(Tracker.before_nack, broker, message)

    def after_ack(self, broker: dramatiq.Broker, message: Any) -> None:
        """Do what ``before_ack`` does, if the broker did not call that."""
        run = get_run(message)
        if run is not None and not run.is_released:
            self.before_ack(broker, message)

    def after_nack(self, broker: dramatiq.Broker, message: Any) -> None:
        """Do what ``before_nack`` does, if the broker did not call that.  The message may be one
        that no worker can run."""
        run = get_run(message)
        if run is None or not run.is_released:
            self.before_nack(broker, message)

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

    def _track(
        self,
        step: Callable[..., None],
        broker: dramatiq.Broker,
        message_proxy: Any,
        argument: Any = None,
    ) -> bool:
        """Take a step of the tracker if the message is tracked; return whether it is.

        Parameters:
          step(Callable): A method of ``Tracker``.
          message_proxy(Message): The message as Dramatiq passes it to the hook: a proxy or the
            message itself.  Each attribute of a proxy costs a call in Python, so the step gets the
            message itself as well.
          argument: What else the hook got: a delay or an exception.  Not ``*arguments``, which
            would take as long as the search for the ``for_state``.
        """
        message = message_proxy
        try:
            if isinstance(message_proxy, MessageProxy):
                message = message_proxy._message
            for_state = message.kwargs.get(FOR_STATE)
            if for_state is None:
                for_state = message.options.get(FOR_STATE)
            actors = self._actors
            if actors.by_name and (for_state is None or actors.have_states):
                declared = actors.by_name.get(message.actor_name)
                if declared is not None:
                    for_state = merge_for_state(declared.get(id(broker)), message, for_state)
            if for_state is None:
                return False
            if not isinstance(for_state, dict):
                _log_wrong_type(message, for_state)
                return False
            if argument is None:
                step(self._tracker, broker, message_proxy, message, for_state)
            else:
                step(self._tracker, broker, message_proxy, message, for_state, argument)
        except (NotCommittedError, ForStateError):
            raise  # For Dramatiq, or for the code that sends the message.
        except Exception:
            logger.exception(*_log_arguments(step, message))
        return True

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


def _log_wrong_type(message: Any, for_state: object) -> None:
    logger.debug(
        "Message %s is not tracked: its %s is a %s, not a dict.",
        for_log(message.message_id),
        FOR_STATE,
        type(for_state).__name__,
    )


def _log_arguments(step: Callable[..., None], message: Any) -> tuple[str, ...]:
    """Return what is logged about a step that failed."""
    return (
        "%s could not track message %s of actor %s. The message is processed as usual.",
        step.__qualname__,
        for_log(message.message_id),
        for_log(message.actor_name),
    )


def _make_observer() -> Observer:
    return Meter().observe


def _has_receivers() -> bool:
    return task_changed.has_listeners(StateMiddleware)


def _announce(change: Change) -> None:
    """Send ``task_changed`` for a row.  Django logs a receiver that raises an ``Exception``."""
    task_changed.send_robust(
        sender=StateMiddleware, task=change.task, transitions=change.pending.statuses
    )
