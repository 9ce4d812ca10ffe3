"""What the hooks do for a tracked message."""

from __future__ import annotations

import logging
from typing import Any
from weakref import WeakSet

import dramatiq

from taskstate import tenants
from taskstate.conf import TENANT, Options
from taskstate.tracking.encodable import prepare_for_encoding
from taskstate.tracking.fields import FieldCollector
from taskstate.tracking.for_state import DeclaredActors
from taskstate.tracking.options import (
    STAMP_OPTION,
    UsedStamp,
    find_stamps,
    read_attempt,
    read_details,
    read_stamp,
    read_started_at,
    write_stamp,
)
from taskstate.tracking.run import (
    NOTHING_ENQUEUED,
    Run,
    ThisThread,
    get_or_create_run,
    set_current_run,
)
from taskstate.tracking.sink import TransitionSink
from taskstate.transitions.rank import add_to_base, base_of, pack_rank
from taskstate.transitions.status import Status
from taskstate.utils import clock

logger = logging.getLogger(__name__)

# Looked up once: in a hook it would take longer than the rest of the rank.
_ENQUEUED = base_of(Status.ENQUEUED)
_DELAYED = base_of(Status.DELAYED)
_RUNNING = base_of(Status.RUNNING)


class Tracker:
    """Turns the hooks of tracked messages into transitions.

    ``StateMiddleware`` calls the method with the name of the hook.

    Parameters of all hooks:
      broker(Broker): The broker.
      message_proxy(MessageProxy): The message as Dramatiq passes it to the hook.  While a message
        is processed, this is a proxy that holds its run.  A message that is being enqueued is
        usually passed itself.
      message(Message): The message itself.
      state(dict): Its ``for_state``.
    """

    def __init__(
        self,
        options: Options,
        collector: FieldCollector,
        actors: DeclaredActors,
        sink: TransitionSink,
    ) -> None:
        self._options = options
        self._collector = collector
        self._actors = actors
        self._sink = sink
        self._push_deferred = sink.push_deferred
        self._this_thread = ThisThread()
        #: Whether a message has arrived without its stamp.
        self._loses_stamps = False
        self._lost_stamps = LostStampLog()

    # Enqueueing.

    def before_enqueue(
        self,
        broker: dramatiq.Broker,
        message_proxy: Any,
        message: Any,
        state: dict[str, Any],
    ) -> None:
        """Write into the options of the message, before it is encoded: its stamp, its tenant and,
        in a retry, when the first run began and why the last one failed.

        Raises:
          ForStateError: If its ``for_state`` can't be encoded.
        """
        prepare_for_encoding(message, state, self._actors)
        thread = self._this_thread.state
        if TENANT.function is not None:
            tenants.write_tenant(message.options, thread.tenant())
        # A broker may enqueue the proxy itself.
        is_proxy = message_proxy is not message
        run = get_or_create_run(message_proxy, message, state) if is_proxy else thread.run
        run_stamp = 0
        if run is not None and run.message_id == message.message_id:
            run.write_for_next_run(message)
            if run.fields is not None:
                run_stamp = run.stamp
        stamps = write_stamp(message, run_stamp, may_get_lost=self._loses_stamps)
        thread.begin_enqueue(message.message_id, stamps)

    def after_enqueue(
        self,
        broker: dramatiq.Broker,
        message_proxy: Any,
        message: Any,
        state: dict[str, Any],
        delay: int | None = None,
    ) -> None:
        """Push the transition to ``enqueued`` or ``delayed``."""
        now_ms, happened_at = clock.now()
        thread = self._this_thread.state
        message_id = message.message_id
        stamps = thread.enqueueing.pop(message_id, None)
        if stamps is None:
            stamps = find_stamps(message, may_get_lost=self._loses_stamps)
        stamp, run_stamp = stamps
        message.options[STAMP_OPTION] = UsedStamp((run_stamp,))
        thread.last_enqueued = (message_id, stamp)
        run = thread.run
        if run is not None and run.message_id == message_id and stamp > run.stamp:
            run.requeued = True
        fields = self._collector.collect(message, state)
        if fields is None:
            return
        attempt = read_attempt(message)
        details = None
        if attempt > 1 or delay is not None:
            details = read_details(message, is_delayed=delay is not None)
        # Delay 0 is a delay as well: the message goes through the delay queue.
        rank = add_to_base(_ENQUEUED if delay is None else _DELAYED, stamp, now_ms)
        started_at = read_started_at(message)
        self._sink.push((rank, attempt, started_at, happened_at, fields, details))

    def write_tenant_of_followers(self, message: Any) -> None:
        """Write the tenant into the messages that follow an untracked message: they may be
        tracked."""
        tenants.write_tenant_of_followers(message.options, self._this_thread.state.tenant())

    # Processing.

    def before_delay_message(
        self,
        broker: dramatiq.Broker,
        message_proxy: Any,
        message: Any,
        state: dict[str, Any],
    ) -> None:
        """Find out whether the broker loses the options that hooks write."""
        if TENANT.function is not None:
            tenants.write_missing_tenant(message)
        if read_stamp(message) <= 0:
            self._record_lost_stamp(broker)

    def before_process_message(
        self,
        broker: dramatiq.Broker,
        message_proxy: Any,
        message: Any,
        state: dict[str, Any],
    ) -> None:
        """Push the transition to ``running``."""
        if TENANT.function is not None:
            tenants.write_missing_tenant(message)
        now_ms, happened_at = clock.now()
        run = get_or_create_run(message_proxy, message, state)
        self._this_thread.state.enter(run)
        first_started_at = read_started_at(message)
        run.last_reported_ms = now_ms
        run.started_at = now_ms if first_started_at is None else first_started_at
        run.fields = fields = self._collector.collect(message, state)
        if run.attempt > 1:
            run.restore_error(message)
        if fields is not None:
            rank = add_to_base(_RUNNING, run.stamp, now_ms)
            details = run.details(Status.RUNNING) if run.has_details else None
            self._sink.push((rank, run.attempt, run.started_at, happened_at, fields, details))
        set_current_run((run, self._push_deferred))
        if not run.is_stamped:
            self._record_lost_stamp(broker)

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message_proxy: Any,
        message: Any,
        state: dict[str, Any],
        exception: BaseException | None = None,
    ) -> None:
        """Record when the run ended, and how."""
        run = get_or_create_run(message_proxy, message, state)
        run.ended_at = clock.now()
        run.raised = exception is not None
        if exception is not None:
            run.record_error(exception)

    def after_skip_message(
        self,
        broker: dramatiq.Broker,
        message_proxy: Any,
        message: Any,
        state: dict[str, Any],
    ) -> None:
        """Record that the message was skipped."""
        run = get_or_create_run(message_proxy, message, state)
        run.ended_at = clock.now()
        run.skipped = True

    def before_ack(self, message: Any, run: Run) -> None:
        """Push the transition to ``done`` or ``skipped``, or to ``failed`` if the message raised
        and is not retried.

        Parameters:
          message(MessageProxy): The message as Dramatiq passes it to the hook.
          run(Run): Its run.
        """
        enqueued_id, enqueued_stamp = self._leave(run)
        run.is_released = True
        if run.ended_at is None:
            run.infer_outcome()
            if run.ended_at is None:
                return  # It did not run.
        if not run.raised:
            self._push_outcome(Status.DONE, message, run)
        # If an exception interrupted ``before_process_message``, the run may not be marked as
        # requeued.  Then the last message that this thread has enqueued shows whether.
        elif not run.requeued and (enqueued_id != run.message_id or enqueued_stamp <= run.stamp):
            self._push_outcome(Status.FAILED, message, run)

    def before_nack(
        self,
        broker: dramatiq.Broker,
        message_proxy: Any,
        message: Any,
        state: dict[str, Any],
    ) -> None:
        """Push the transition to ``failed`` or ``skipped``."""
        run = get_or_create_run(message_proxy, message, state)
        self._leave(run)
        run.is_released = True
        if run.fields is None and message.actor_name not in broker.actors:
            run.record_unknown_actor(message)
        self._push_outcome(Status.FAILED, message, run)

    def _push_outcome(self, status: Status, message: Any, run: Run) -> None:
        if run.outcome_pushed:
            return
        if run.skipped:
            status = Status.SKIPPED
            run.started_at = None
        if run.fields is None:
            if TENANT.function is not None:
                tenants.write_missing_tenant(message)
            run.fields = self._collector.collect(message, run.state)
        # A message that did not run is rejected in the consumer's thread, which must not wait.
        waits = run.ended_at is not None and self._options.flush_before_ack
        if run.ended_at is None:
            run.ended_at = clock.now()
        fields = run.fields
        if fields is not None:
            now_ms, happened_at = run.ended_at
            rank = pack_rank(status, run.stamp, now_ms)
            details = run.details(status) if run.has_details else None
            transition = (rank, run.attempt, run.started_at, happened_at, fields, details)
            self._sink.push(transition, waits=waits)
        run.outcome_pushed = True

    def _leave(self, run: Run) -> tuple[str, int]:
        """Leave ``run``, and return to the one that it is nested in, if any.  Return the id and the
        stamp of the message that was enqueued last."""
        thread = self._this_thread.state
        last_enqueued, thread.last_enqueued = thread.last_enqueued, NOTHING_ENQUEUED
        thread.run = outer = run.outer
        if outer is not None:
            set_current_run((outer, self._push_deferred))
        return last_enqueued

    def _record_lost_stamp(self, broker: dramatiq.Broker) -> None:
        self._loses_stamps = True
        self._lost_stamps.warn(broker)


class LostStampLog:
    """Warns once of each broker that loses stamps."""

    def __init__(self) -> None:
        self._warned_brokers: WeakSet[dramatiq.Broker] = WeakSet()

    def warn(self, broker: dramatiq.Broker) -> None:
        """Warn that messages arrive without their stamps, unless this broker was logged before."""
        if broker in self._warned_brokers:
            return
        self._warned_brokers.add(broker)
        logger.warning(
            "Tracked messages arrive from %s without the option %r. Either the broker encodes "
            "messages before it calls the hook before_enqueue, or their senders do not use "
            "StateMiddleware. States are still tracked. Their order across retries relies on the "
            "clocks of your hosts, so keep these in sync. This is logged once per broker.",
            type(broker).__name__,
            STAMP_OPTION,
        )
