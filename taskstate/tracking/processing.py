"""The hooks of a message that is processed, in the threads of a worker."""

from __future__ import annotations

from typing import Any

import dramatiq
from dramatiq.broker import MessageProxy

from taskstate import tenants
from taskstate.conf import TENANT
from taskstate.tracking.for_state import FOR_STATE
from taskstate.tracking.hooks import RAISED, TrackingHooks, log_failure, unwrap
from taskstate.tracking.options import STARTED_AT_OPTION, read_stamp, read_started_at
from taskstate.tracking.run import (
    NOTHING_ENQUEUED,
    RUN_ATTRIBUTE,
    Run,
    ThreadState,
    get_or_create_run,
    get_run,
    set_current_run,
)
from taskstate.transitions.rank import STAMP_SHIFT, TIME_SHIFT, base_of
from taskstate.transitions.status import Status
from taskstate.utils import clock
from taskstate.utils.clock import MAX_TIME

_RUNNING = base_of(Status.RUNNING)


class ProcessingHooks(TrackingHooks):
    """Dramatiq calls these hooks from the receipt of a message to its acknowledgment."""

    def before_delay_message(self, broker: dramatiq.Broker, message: Any) -> None:
        """Find out whether the broker loses the options that hooks write.  The message is enqueued
        again later."""
        message = unwrap(message)
        try:
            if self._state_of(broker, message) is None:
                return
            if TENANT.function is not None:
                tenants.write_missing_tenant(message)
            if read_stamp(message) <= 0:
                self._record_lost_stamp(broker)
        except Exception:  # noqa: BLE001 - log_failure logs it
            log_failure("before_delay_message", message)

    def before_process_message(  # noqa: C901, PLR0912 - see taskstate.tracking.hooks
        self, broker: dramatiq.Broker, message: Any
    ) -> None:
        """Push the transition to ``running``."""
        proxy = message
        try:
            if isinstance(message, MessageProxy):
                message = message._message
            state = message.kwargs.get(FOR_STATE)
            if type(state) is not dict or self._actors.have_states:
                state = self._find_state(broker, message, state)
                if state is None:
                    return
            # This is clock.now without the call.
            now_ms = clock.time_ns() // 1_000_000 & MAX_TIME
            happened_at = clock.monotonic()
            # This is get_or_create_run without the call.
            attributes = proxy.__dict__
            run = attributes.get(RUN_ATTRIBUTE)
            if run is None:
                run = attributes[RUN_ATTRIBUTE] = Run(message, state)
            if TENANT.function is not None:
                tenants.write_missing_tenant(message)
            thread = self._this_thread.state
            if thread.run is None:
                thread.run = run
            else:
                thread.enter_nested(run)
            started_at = now_ms
            if STARTED_AT_OPTION in message.options:
                started_at = read_started_at(message) or now_ms
            run.started_at = started_at
            run.last_reported_ms = now_ms
            run.fields = fields = self._collector.collect(message, state)
            details = None
            if run.attempt > 1:
                run.restore_error(message)
            if run.has_details:
                details = run.details(Status.RUNNING)
            if fields is not None:
                rank = run.stamp << STAMP_SHIFT | _RUNNING | now_ms << TIME_SHIFT
                self._sink.push((rank, run.attempt, run.started_at, happened_at, fields, details))
            set_current_run((run, self._push_deferred))
            if not run.is_stamped:
                self._record_lost_stamp(broker)
        except RAISED:
            raise
        except Exception:  # noqa: BLE001 - log_failure logs it
            log_failure("before_process_message", message)

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
        if exception is None:
            run = get_run(message)
            if run is not None:  # This is clock.now without the call.
                run.ended_at = clock.time_ns() // 1_000_000 & MAX_TIME, clock.monotonic()
                run.raised = False
            return
        try:
            run = self._run_of(broker, message)
            if run is None:
                return
            run.ended_at = clock.now()
            run.raised = True
            run.record_error(exception)
        except Exception:  # noqa: BLE001 - log_failure logs it
            log_failure("after_process_message", message)

    def after_skip_message(self, broker: dramatiq.Broker, message: Any) -> None:
        """Record that the message was skipped."""
        try:
            run = self._run_of(broker, message)
            if run is not None:
                run.ended_at = clock.now()
                run.skipped = True
        except Exception:  # noqa: BLE001 - log_failure logs it
            log_failure("after_skip_message", message)

    def before_ack(self, broker: dramatiq.Broker, message: Any) -> None:
        """Push the transition to ``done`` or ``skipped``, or to ``failed`` if the message raised
        and is not retried."""
        run = get_run(message)
        if run is None:
            return  # It is not tracked, or it is a delayed copy that became due.
        try:
            thread = self._this_thread.state
            enqueued_id, enqueued_stamp = thread.last_enqueued
            self._leave(run, thread)
            if run.ended_at is None:
                run.infer_outcome()
                if run.ended_at is None:
                    return  # It did not run.
            if not run.raised:
                self._push_outcome(Status.DONE, message, run)
            # If an exception interrupted ``before_process_message``, the run may not be marked as
            # requeued.  If it was, its message is the last one that this thread has enqueued.
            elif not run.requeued and (
                enqueued_id != run.message_id or enqueued_stamp <= run.stamp
            ):
                self._push_outcome(Status.FAILED, message, run)
        except RAISED:
            raise
        except Exception:  # noqa: BLE001 - log_failure logs it
            log_failure("before_ack", message)

    def before_nack(self, broker: dramatiq.Broker, message: Any) -> None:
        """Push the transition to ``failed`` or ``skipped``."""
        try:
            run = self._run_of(broker, message)
            if run is None:
                return
            self._leave(run, self._this_thread.state)
            if run.fields is None and message.actor_name not in broker.actors:
                run.record_unknown_actor(unwrap(message))
            self._push_outcome(Status.FAILED, message, run)
        except RAISED:
            raise
        except Exception:  # noqa: BLE001 - log_failure logs it
            log_failure("before_nack", message)

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

    def _run_of(self, broker: dramatiq.Broker, message: Any) -> Run | None:
        """Return the run of a message; None if it is not tracked."""
        run = get_run(message)
        if run is None:
            state = self._state_of(broker, unwrap(message))
            if state is not None:
                run = get_or_create_run(message, unwrap(message), state)
        return run

    def _leave(self, run: Run, thread: ThreadState) -> None:
        """Leave ``run``, and return to the one that it is nested in, if any."""
        run.is_released = True
        thread.last_enqueued = NOTHING_ENQUEUED
        thread.run = outer = run.outer
        if outer is not None:
            set_current_run((outer, self._push_deferred))
        elif run.has_details:
            set_current_run(None)  # Others may stay until the thread's next run: they are small.

    def _push_outcome(self, status: Status, message: Any, run: Run) -> None:
        if run.outcome_pushed:
            return
        if run.skipped:
            status = Status.SKIPPED
            run.started_at = None
        if run.fields is None:
            if TENANT.function is not None:
                tenants.write_missing_tenant(message)
            run.fields = self._collector.collect(unwrap(message), run.state)
        # A message that did not run is rejected in the consumer's thread, which must not wait.
        waits = run.ended_at is not None and self._options.flush_before_ack
        if run.fields is not None:
            now_ms, happened_at = run.ended_at or clock.now()
            rank = run.stamp << STAMP_SHIFT | base_of(status) | now_ms << TIME_SHIFT
            details = run.details(status) if run.has_details else None
            transition = (rank, run.attempt, run.started_at, happened_at, run.fields, details)
            self._sink.push(transition, waits=waits)
        run.outcome_pushed = True
