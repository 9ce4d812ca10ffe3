"""The hooks of a message that is enqueued, in a web process or in a worker."""

from __future__ import annotations

from typing import Any

import dramatiq
from dramatiq.broker import MessageProxy

from taskstate import tenants
from taskstate.conf import TENANT
from taskstate.tracking.encodable import is_plain, prepare_for_encoding
from taskstate.tracking.for_state import FOR_STATE
from taskstate.tracking.hooks import RAISED, TrackingHooks, log_failure
from taskstate.tracking.options import (
    STAMP_OPTION,
    UsedStamp,
    find_stamps,
    read_attempt,
    read_details,
    read_started_at,
    write_stamp,
)
from taskstate.tracking.run import get_or_create_run
from taskstate.transitions.rank import STAMP_SHIFT, TIME_SHIFT, base_of
from taskstate.transitions.status import Status
from taskstate.utils import clock
from taskstate.utils.clock import MAX_TIME

_ENQUEUED = base_of(Status.ENQUEUED)
_DELAYED = base_of(Status.DELAYED)


class EnqueueingHooks(TrackingHooks):
    """Dramatiq calls ``before_enqueue`` before it encodes a message, and ``after_enqueue`` when the
    message is in its queue."""

    def before_enqueue(  # noqa: C901 - see taskstate.tracking.hooks
        self, broker: dramatiq.Broker, message: Any, delay: int | None
    ) -> None:
        """Write into the options of the message what its run needs: its stamp, its tenant and, in a
        retry, when the first run began and why the last one failed.

        Raises:
          ForStateError: If its ``for_state`` can't be encoded.
        """
        given = message
        try:
            if isinstance(message, MessageProxy):  # A broker may enqueue the proxy itself.
                message = message._message
            state = message.kwargs.get(FOR_STATE)
            is_by_keyword = type(state) is dict and not self._actors.have_states
            if not is_by_keyword:
                state = self._find_state(broker, message, state)
                if state is None:
                    if TENANT.function is not None:
                        self._write_tenant_of_followers(message)
                    return
            message_id, options = message.message_id, message.options
            if options or not is_by_keyword or not is_plain(state):
                prepare_for_encoding(message, state, self._actors)
            thread = self._this_thread.state
            if TENANT.function is not None:
                tenants.write_tenant(options, thread.tenant())
            run = thread.run
            if given is not message:
                run = get_or_create_run(given, message, state)
            run_stamp = 0
            if run is not None and run.message_id == message_id:
                run.write_for_next_run(message)
                if run.fields is not None:  # It has begun.
                    run_stamp = run.stamp
            stamps = write_stamp(message, run_stamp, may_get_lost=self._loses_stamps)
            thread.begin_enqueue(message_id, stamps)
        except RAISED:
            raise
        except Exception:  # noqa: BLE001 - log_failure logs it
            log_failure("before_enqueue", message)

    def after_enqueue(  # noqa: C901 - see taskstate.tracking.hooks
        self, broker: dramatiq.Broker, message: Any, delay: int | None
    ) -> None:
        """Push the transition to ``enqueued`` or ``delayed``."""
        try:
            if isinstance(message, MessageProxy):
                message = message._message
            state = message.kwargs.get(FOR_STATE)
            if type(state) is not dict or self._actors.have_states:
                state = self._find_state(broker, message, state)
                if state is None:
                    return
            thread = self._this_thread.state
            message_id, options = message.message_id, message.options
            stamps = thread.enqueueing.pop(message_id, None)
            if stamps is None:
                stamps = find_stamps(message, may_get_lost=self._loses_stamps)
            stamp, run_stamp = stamps
            options[STAMP_OPTION] = UsedStamp((run_stamp,))
            thread.last_enqueued = (message_id, stamp)
            run = thread.run
            if run is not None and run.message_id == message_id and stamp > run.stamp:
                run.requeued = True
            fields = self._collector.collect(message, state)
            if fields is None:
                return
            # Delay 0 is a delay as well: the message goes through the delay queue.
            base = _ENQUEUED if delay is None else _DELAYED
            # This is clock.now without the call.
            now_ms = clock.time_ns() // 1_000_000 & MAX_TIME
            happened_at = clock.monotonic()
            rank = stamp << STAMP_SHIFT | base | now_ms << TIME_SHIFT
            if delay is None and len(options) == 1:  # It has no options but the stamp.
                self._sink.push((rank, 1, None, happened_at, fields, None))
                return
            attempt = read_attempt(message)
            details = None
            if attempt > 1 or delay is not None:
                details = read_details(message, is_delayed=delay is not None)
            started_at = read_started_at(message)
            self._sink.push((rank, attempt, started_at, happened_at, fields, details))
        except RAISED:
            raise
        except Exception:  # noqa: BLE001 - log_failure logs it
            log_failure("after_enqueue", message)

    def _write_tenant_of_followers(self, message: Any) -> None:
        """Write the tenant into the messages that follow an untracked message: they may be
        tracked."""
        tenants.write_tenant_of_followers(message.options, self._this_thread.state.tenant())
