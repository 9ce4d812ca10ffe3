"""``StateMiddleware``: Dramatiq's hooks become transitions.

Hooks only push.  They never touch the database, never raise, never wait, and are repeatable:
Dramatiq raises exceptions in worker threads between any two bytecodes, in hooks too.  The exception
is ``FLUSH_BEFORE_ACK``: there the hooks before an acknowledgement wait for a commit.
"""

from __future__ import annotations

import functools
import logging
import math
import sys
import time
from typing import Any, Callable

import dramatiq
from dramatiq.broker import MessageProxy
from dramatiq.middleware import MiddlewareError

from . import metrics, process, runs
from .conf import Options
from .fitting import Fitter
from .flusher import Flusher
from .runs import Moment, Run, ThisThread
from .signals import task_changed
from .stores import Change, Store
from .transitions import (
    MAX_HOP,
    Extras,
    MessageFields,
    Status,
    Transition,
    pack_rank,
    transition_from,
)
from .writer import Writer

__all__ = ["StateMiddleware"]

logger = logging.getLogger(__name__)

#: The kwarg that makes a message tracked.
FOR_STATE = "for_state"


class NotCommittedError(MiddlewareError):
    """Keeps a message from being acknowledged: Dramatiq lets nothing else of a hook through."""


def _for_tracked(hook: Callable[..., None]) -> Any:
    """Run ``hook`` for tracked messages only, and let no exception out of it.

    It gets the message twice: as Dramatiq gave it, which may be a proxy that lives as long as one
    run, and the message itself.  Each attribute that is read through a proxy is a call in Python.
    The third argument is its ``for_state``.
    """

    @functools.wraps(hook)
    def guarded(
        self: StateMiddleware,
        broker: dramatiq.Broker,  # noqa: ARG001 - Dramatiq's signature
        message: Any,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        try:
            itself = message._message if isinstance(message, MessageProxy) else message
            for_state = itself.kwargs.get(FOR_STATE)
            if for_state is None:
                for_state = itself.options.get(FOR_STATE)
            if self._states_of_actors:
                for_state = _merged(self._states_of_actors.get(itself.actor_name), for_state)
            if for_state is None:
                return
            if isinstance(for_state, dict):
                hook(self, message, itself, for_state, *args, **kwargs)
            else:
                logger.debug(
                    "Message %s is not tracked: its %s is a %s, not a dict.",
                    message.message_id,
                    FOR_STATE,
                    type(for_state).__name__,
                )
        except NotCommittedError:
            raise
        except Exception:
            logger.exception(
                "%s could not track message %s of actor %s; the message itself is processed as "
                "ever.",
                hook.__name__,
                message.message_id,
                message.actor_name,
            )

    return guarded


def _merged(of_actor: dict[str, Any] | None, own: object) -> object:
    """Return the ``for_state`` of an actor, with the keys of a message's own over it."""
    if of_actor is None:
        return own
    return {**of_actor, **own} if isinstance(own, dict) else of_actor


class StateMiddleware(dramatiq.Middleware):
    """Keeps a ``Task`` row true for each message that carries a ``for_state`` dictionary, as an
    argument or else as an option, or whose actor was declared with one.

    It works at any position among the middleware.  Constructing it is inert: no thread is
    started and no model imported before the first tracked message.

    Parameters (each wins over its namesake in the ``TASKSTATE`` setting):
      flush_interval(float): Under load, at most one flush per so many seconds; 0 sets no limit.
      max_batch_size(int): Rows per batch.
      max_pending(int): Messages kept through an outage.
      shutdown_timeout(float): Seconds that the last flush of a process may take.
      flush_before_ack(bool): Acknowledge a message only when its final state is committed.
      synchronous(bool): Write each transition at once in the calling thread; for tests.
      store_message(bool): Keep the message with its task, so that it can be sent again.
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
        shutdown_timeout: float | None = None,
        flush_before_ack: bool | None = None,
        synchronous: bool | None = None,
        store_message: bool | None = None,
        store: str | None = None,
    ) -> None:
        self._options = Options(
            flush_interval=flush_interval,
            max_batch_size=max_batch_size,
            max_pending=max_pending,
            shutdown_timeout=shutdown_timeout,
            flush_before_ack=flush_before_ack,
            synchronous=synchronous,
            store_message=store_message,
            store=store,
        )
        self._fitter = Fitter(self._options)
        self._writer = Writer(
            make_flusher=self._make_flusher,
            config=self._options,
            watch=process.watch,
        )
        #: Takes a run that has something to report.
        self._report = self._writer.push
        self._this_thread = ThisThread()
        #: When the worker began to shut down, by the monotonic clock.
        self._stopping_since: float | None = None
        #: The ``for_state`` of each actor that was declared with one.
        self._states_of_actors: dict[str, dict[str, Any]] = {}

    @property
    def actor_options(self) -> set[str]:
        """The options that an actor may be declared with."""
        return {FOR_STATE}

    def after_declare_actor(self, broker: dramatiq.Broker, actor: Any) -> None:
        """Note the ``for_state`` of an actor, if it has one."""
        for_state = actor.options.get(FOR_STATE)
        if isinstance(for_state, dict):
            self._states_of_actors[actor.actor_name] = for_state
            return
        self._states_of_actors.pop(actor.actor_name, None)
        if for_state is not None:
            logger.error(
                "Actor %s is declared with for_state=%.100r, which is a %s, not a dict: its "
                "messages are not tracked by that. Use for_state={} to track each of them.",
                actor.actor_name,
                for_state,
                type(for_state).__name__,
            )

    # Enqueueing: in a web process, or in a worker that retries or forwards.

    @_for_tracked
    def before_enqueue(
        self, given: Any, message: Any, state: dict[str, Any], delay: int | None = None
    ) -> None:
        """Count the hop and, in a retry, carry the start of the first run and why the last one
        failed; before the message is encoded."""
        # A broker may enqueue the proxy itself: take its run's hop before it changes.
        is_proxy = given is not message
        run = runs.run_of(given, message) if is_proxy else self._this_thread.run
        if run is not None and run.message_id == message.message_id:
            is_retry = runs.attempt_of(message) > run.attempt
            if is_retry and run.started_at is not None:
                message.options[runs.STARTED_AT_OPTION] = run.started_at
            # Whoever retries does so while the exception is handled, before we are told of it or
            # after: that depends on the order of the middleware.
            exception = sys.exc_info()[1]
            if is_retry and exception is not None:
                run.note_error(exception)
                message.options[runs.ERROR_OPTION] = run.error
                message.options[runs.TRACEBACK_OPTION] = run.traceback
            elif exception is None:  # It puts itself off, and has not failed this time.
                message.options.pop(runs.ERROR_OPTION, None)
                message.options.pop(runs.TRACEBACK_OPTION, None)
        message.options[runs.HOP_OPTION] = min(runs.hop_of(message) + 1, MAX_HOP)

    @_for_tracked
    def after_enqueue(
        self, given: Any, message: Any, state: dict[str, Any], delay: int | None = None
    ) -> None:
        """Push enqueued, or delayed."""
        moment = runs.now()
        hop = runs.hop_of(message)
        extras = None
        if hop > 1 or delay is not None:
            extras = runs.extras_of_waiting(message, is_delayed=delay is not None)
        this_thread = self._this_thread
        this_thread.enqueued = (message.message_id, hop)
        run = this_thread.run
        if run is not None and run.message_id == message.message_id and hop > run.hop:
            run.superseded = True
        self._push(
            # Delay 0 is a delay as well: the message goes by the delay queue.
            Status.ENQUEUED if delay is None else Status.DELAYED,
            moment,
            hop,
            runs.attempt_of(message),
            runs.carried_start(message),
            self._fitter.collect(message, state),
            extras,
        )

    # Processing: in a worker thread.

    @_for_tracked
    def before_process_message(self, proxy: Any, message: Any, state: dict[str, Any]) -> None:
        """Push running."""
        moment = runs.now()
        run = self._this_thread.run = runs.run_of(proxy, message)
        carried = runs.carried_start(message)
        run.told_at = moment[0]
        run.started_at = moment[0] if carried is None else carried
        run.fields = self._fitter.collect(message, state)
        if run.hop > 1:
            run.carry_error(message)
        self._push(
            Status.RUNNING,
            moment,
            run.hop,
            run.attempt,
            run.started_at,
            run.fields,
            run.extras(Status.RUNNING) if run.has_extras else None,
        )
        runs.here.set((run, self._report))

    @_for_tracked
    def after_process_message(
        self,
        proxy: Any,
        message: Any,
        state: dict[str, Any],
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """Note when the run ended, and how; whether that is final shows at the ack."""
        run = runs.run_of(proxy, message)
        run.ended = runs.now()
        run.raised = exception is not None
        if exception is not None:
            run.note_error(exception)

    @_for_tracked
    def after_skip_message(self, proxy: Any, message: Any, state: dict[str, Any]) -> None:
        """Note that the message was skipped."""
        run = runs.run_of(proxy, message)
        run.ended = runs.now()
        run.skipped = True

    @_for_tracked
    def before_ack(self, proxy: Any, message: Any, state: dict[str, Any]) -> None:
        """Push done or skipped, or failed if the message raised and is not retried."""
        message_id, hop = self._this_thread.leave()
        run: Run | None = runs.known_run(proxy)
        if run is None or run.ended is None:
            runs.here.set(None)
            return  # A delayed copy that became due, for one: it didn't run.
        # Where an exception kept ``before_process_message`` from noting the run, nothing could mark
        # it as superseded: then what this thread has enqueued last tells.
        is_retried = run.superseded or (message_id == run.message_id and hop > run.hop)
        if not run.raised:
            self._settle(Status.DONE, message, state, run)
        elif not is_retried:
            self._settle(Status.FAILED, message, state, run)

    @_for_tracked
    def before_nack(self, proxy: Any, message: Any, state: dict[str, Any]) -> None:
        """Push failed, or skipped."""
        self._this_thread.leave()
        runs.here.set(None)
        self._settle(Status.FAILED, message, state, runs.run_of(proxy, message))

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: Any) -> None:
        """Let nobody wait for the database without end any more."""
        self._stopping_since = time.monotonic()

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: Any) -> None:
        """Write what is pending, for a bounded time."""
        try:
            self._writer.stop()
        except Exception:
            logger.exception("The last flush of this worker failed.")
        self._stopping_since = None

    # Where it goes.

    def _make_flusher(self) -> Flusher:
        return Flusher(
            fit=self._fitter.fit,
            open_store=self._open_store,
            announce=_announce,
            observe=metrics.Meter().observe,
        )

    def _open_store(self) -> Store:
        # Here, because the middleware is made before models can be imported.
        from .stores.choice import open_store

        return open_store(self._options().store, _is_listened)

    # From a hook to a push.

    def _settle(self, status: Status, message: Any, state: dict[str, Any], run: Run) -> None:
        if run.settled:
            return
        if run.skipped:
            status = Status.SKIPPED
            run.started_at = None
        if run.fields is None:
            run.fields = self._fitter.collect(message, state)
        # What has not ended didn't run: then this may be the consumer's thread, which mustn't wait.
        waits = run.ended is not None and self._waits_for_commits()
        moment = run.ended or runs.now()
        self._push(
            status,
            moment,
            run.hop,
            run.attempt,
            run.started_at,
            run.fields,
            run.extras(status) if run.has_extras else None,
            waits=waits,
        )
        run.settled = True

    def _waits_for_commits(self) -> bool:
        config = self._options()
        return config.flush_before_ack and not config.synchronous

    def _push_and_wait(self, transition: Transition) -> None:
        """Push, and wait for the commit: as long as it takes, but only for the shutdown timeout
        when the worker is shutting down."""
        if not self._writer.push_and_wait(
            transition, functools.partial(self._left_to_wait, time.monotonic())
        ):
            raise NotCommittedError(
                f"This worker shuts down, and the state {transition.status.value!r} of message "
                f"{transition.message_id} could not be written within "
                f"{self._options().shutdown_timeout} seconds. The message is not acknowledged, so "
                "the broker delivers it again (TASKSTATE['FLUSH_BEFORE_ACK'])."
            )

    def _left_to_wait(self, since: float) -> float:
        if self._stopping_since is None:
            return math.inf
        end = max(since, self._stopping_since) + self._options().shutdown_timeout
        return max(0.0, end - time.monotonic())

    def _push(  # noqa: PLR0917 - keywords cost a third of the call
        self,
        status: Status,
        moment: Moment,
        hop: int,
        attempt: int,
        started_at: int | None,
        fields: MessageFields | None,
        extras: Extras | None,
        *,
        waits: bool = False,
    ) -> None:
        if fields is None:
            return
        time_ms, monotonic = moment
        rank = pack_rank(status, hop, time_ms)
        transition = transition_from((rank, attempt, started_at, monotonic, fields, extras))
        if waits:
            self._push_and_wait(transition)
        else:
            self._writer.push(transition)


def _is_listened() -> bool:
    return task_changed.has_listeners(StateMiddleware)


def _announce(change: Change) -> None:
    """Send ``task_changed`` for a row.  Django logs a receiver that raises an ``Exception``."""
    task_changed.send_robust(
        sender=StateMiddleware, task=change.task, transitions=change.entry.statuses
    )
