"""What the hooks do for a tracked message."""

from __future__ import annotations

import logging
import sys
from typing import Any
from weakref import WeakSet

import dramatiq

from taskstate import tenants
from taskstate.conf import TENANT, Options
from taskstate.tracking.encodable import prepare_for_encoding
from taskstate.tracking.failure import NO_FAILURE
from taskstate.tracking.fields import FieldCollector
from taskstate.tracking.for_state import DeclaredActors
from taskstate.tracking.options import (
    STAMP_OPTION,
    STARTED_AT_OPTION,
    UsedStamp,
    find_stamps,
    read_attempt,
    read_details,
    read_stamp,
    read_started_at,
    write_failure,
    write_stamp,
)
from taskstate.tracking.run import (
    Run,
    ThisThread,
    current_run,
    get_or_create_run,
    get_run,
    set_current_run,
)
from taskstate.tracking.sink import TransitionSink
from taskstate.transitions.status import Status
from taskstate.utils import clock

logger = logging.getLogger(__name__)


class Tracker:
    """Turns the hooks of tracked messages into transitions.

    ``StateMiddleware`` calls the method that is named like the hook, with the broker, the message
    as Dramatiq gave it to the hook (which may be a proxy that lives as long as one run), the
    message itself, and its ``for_state``.
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
        self._this_thread = ThisThread()
        #: Whether a message has arrived without its stamp, and the brokers this was logged for.
        self._loses_stamps = False
        self._warned_brokers: WeakSet[dramatiq.Broker] = WeakSet()

    # Enqueueing.

    def before_enqueue(
        self, broker: dramatiq.Broker, given: Any, message: Any, state: dict[str, Any]
    ) -> None:
        """Write into the options of the message, before it is encoded: its stamp, its tenant and,
        in a retry, when the first run began and why the last one failed.

        Raises:
          ForStateError: If its ``for_state`` can't be encoded.
        """
        prepare_for_encoding(message, state, self._actors)
        if TENANT.function is not None:
            tenants.write_tenant(message.options, self._tenant_of_run())
        # A broker may enqueue the proxy itself.
        is_proxy = given is not message
        run = get_or_create_run(given, message) if is_proxy else self._this_thread.run
        run_stamp = 0
        if run is not None and run.message_id == message.message_id:
            self._write_for_next_run(run, message)
            if run.fields is not None:
                run_stamp = run.stamp
        stamps = write_stamp(message, run_stamp, may_get_lost=self._loses_stamps)
        self._this_thread.begin_enqueue(message.message_id, stamps)

    @staticmethod
    def _write_for_next_run(run: Run, message: Any) -> None:
        """Write into the options of a message, which its own run enqueues again, what the next run
        needs."""
        is_retry = read_attempt(message) > run.attempt
        if is_retry and run.started_at is not None:
            message.options[STARTED_AT_OPTION] = run.started_at
        # A retry is enqueued while the exception is handled.  Whether that is before or after
        # ``after_process_message`` depends on the order of the middleware.
        exception = sys.exc_info()[1]
        if is_retry and exception is not None:
            run.record_error(exception)
            write_failure(message, run.failure)
        elif exception is None:  # The actor enqueues its own message again, and has not failed.
            write_failure(message, NO_FAILURE)

    def after_enqueue(
        self,
        broker: dramatiq.Broker,
        given: Any,
        message: Any,
        state: dict[str, Any],
        delay: int | None,
    ) -> None:
        """Push enqueued, or delayed."""
        timestamp = clock.now()
        this_thread = self._this_thread
        stamps = this_thread.enqueueing.pop(message.message_id, None)
        if stamps is None:
            stamps = find_stamps(message, may_get_lost=self._loses_stamps)
        stamp, carried = stamps
        message.options[STAMP_OPTION] = UsedStamp((carried,))
        attempt = read_attempt(message)
        details = None
        if attempt or delay is not None:
            details = read_details(message, is_delayed=delay is not None)
        this_thread.enqueued = (message.message_id, stamp)
        run = this_thread.run
        if run is not None and run.message_id == message.message_id and stamp > run.stamp:
            run.requeued = True
        self._sink.push(
            # Delay 0 is a delay as well: the message goes through the delay queue.
            Status.ENQUEUED if delay is None else Status.DELAYED,
            timestamp,
            stamp,
            attempt,
            read_started_at(message),
            self._collector.collect(message, state),
            details,
        )

    def write_tenant_of_followers(self, message: Any) -> None:
        """Write the tenant into the messages that follow an untracked message: they may be
        tracked."""
        tenants.write_tenant_of_followers(message.options, self._tenant_of_run())

    # Processing.

    def before_delay_message(
        self, broker: dramatiq.Broker, proxy: Any, message: Any, state: dict[str, Any]
    ) -> None:
        """Find out whether the broker loses the options that hooks write."""
        if TENANT.function is not None:
            tenants.write_missing_tenant(message)
        if read_stamp(message) <= 0:
            self._record_lost_stamp(broker)

    def before_process_message(
        self, broker: dramatiq.Broker, proxy: Any, message: Any, state: dict[str, Any]
    ) -> None:
        """Push running."""
        if TENANT.function is not None:
            tenants.write_missing_tenant(message)
        timestamp = clock.now()
        run = get_or_create_run(proxy, message)
        self._this_thread.enter(run)
        carried = read_started_at(message)
        run.last_reported_ms = timestamp[0]
        run.started_at = timestamp[0] if carried is None else carried
        run.fields = self._collector.collect(message, state)
        if run.attempt:
            run.restore_error(message)
        self._sink.push(
            Status.RUNNING,
            timestamp,
            run.stamp,
            run.attempt,
            run.started_at,
            run.fields,
            run.details(Status.RUNNING) if run.has_details else None,
        )
        set_current_run((run, self._sink.push_deferred))
        if not run.is_stamped:
            self._record_lost_stamp(broker)

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        proxy: Any,
        message: Any,
        state: dict[str, Any],
        exception: BaseException | None,
    ) -> None:
        """Record when the run ended, and how."""
        run = get_or_create_run(proxy, message)
        run.ended_at = clock.now()
        run.raised = exception is not None
        if exception is not None:
            run.record_error(exception)

    def after_skip_message(
        self, broker: dramatiq.Broker, proxy: Any, message: Any, state: dict[str, Any]
    ) -> None:
        """Record that the message was skipped."""
        run = get_or_create_run(proxy, message)
        run.ended_at = clock.now()
        run.skipped = True

    def before_ack(
        self, broker: dramatiq.Broker, proxy: Any, message: Any, state: dict[str, Any]
    ) -> None:
        """Push done or skipped; or failed, if the message raised and is not retried."""
        run: Run | None = get_run(proxy)
        enqueued_id, enqueued_stamp = self._leave(run)
        if run is not None:
            run.is_released = True
            if run.ended_at is None:
                run.infer_outcome()
        if run is None or run.ended_at is None:
            return  # It did not run.  It is a delayed copy that became due, for example.
        # If an exception interrupted ``before_process_message``, the run may not be marked as
        # requeued.  Then the last message that this thread has enqueued tells whether it was.
        is_retried = run.requeued or (enqueued_id == run.message_id and enqueued_stamp > run.stamp)
        if not run.raised:
            self._push_outcome(Status.DONE, message, state, run)
        elif not is_retried:
            self._push_outcome(Status.FAILED, message, state, run)

    def before_nack(
        self, broker: dramatiq.Broker, proxy: Any, message: Any, state: dict[str, Any]
    ) -> None:
        """Push failed or skipped."""
        run = get_or_create_run(proxy, message)
        self._leave(run)
        run.is_released = True
        if run.fields is None and message.actor_name not in broker.actors:
            run.record_unknown_actor(message)
        self._push_outcome(Status.FAILED, message, state, run)

    def _push_outcome(self, status: Status, message: Any, state: dict[str, Any], run: Run) -> None:
        if run.outcome_pushed:
            return
        if run.skipped:
            status = Status.SKIPPED
            run.started_at = None
        if run.fields is None:
            if TENANT.function is not None:
                tenants.write_missing_tenant(message)
            run.fields = self._collector.collect(message, state)
        self._sink.push(
            status,
            run.ended_at or clock.now(),
            run.stamp,
            run.attempt,
            run.started_at,
            run.fields,
            run.details(status) if run.has_details else None,
            # A message that did not run is rejected in the consumer's thread, which must not wait.
            waits=run.ended_at is not None and self._options.flush_before_ack,
        )
        run.outcome_pushed = True

    def _leave(self, run: Run | None) -> tuple[str, int]:
        """Leave ``run``; return the id and the stamp of the message that was enqueued last."""
        enqueued = self._this_thread.leave(run)
        outer = self._this_thread.run
        set_current_run(None if outer is None else (outer, self._sink.push_deferred))
        return enqueued

    def _tenant_of_run(self) -> str | None:
        """Return the tenant of the run that the calling code belongs to; None outside of a run."""
        run = self._this_thread.run
        if run is None:  # In a coroutine, or in a thread that an actor has started.
            found = current_run()
            run = None if found is None else found[0]
        return None if run is None or run.fields is None else tenants.clean_name(run.fields.tenant)

    def _record_lost_stamp(self, broker: dramatiq.Broker) -> None:
        self._loses_stamps = True
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
