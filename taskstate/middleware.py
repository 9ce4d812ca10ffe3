"""``StateMiddleware``: Dramatiq's hooks become transitions.

Hooks only push.  They never touch the database, never raise, never wait, and are repeatable:
Dramatiq raises exceptions in worker threads between any two bytecodes, in hooks too.
"""

from __future__ import annotations

import functools
import logging
from typing import Any, Callable, TypeVar

import dramatiq
from django.apps import apps
from dramatiq.broker import MessageProxy
from dramatiq.common import q_name

from . import process, runs, values
from .conf import Options
from .flusher import Flusher
from .runs import MessageFields, Moment, Run, ThisThread
from .signals import task_changed
from .stores import Change, Store
from .transitions import MAX_HOP, Status, Transition, UserPk, pack_rank
from .writer import Writer

__all__ = ["StateMiddleware"]

logger = logging.getLogger("taskstate")

#: The kwarg that makes a message tracked.
FOR_STATE = "for_state"

#: Warnings are given once per actor, for so many actors: their names come from outside.
_MAX_WARNED = 1000


Hook = TypeVar("Hook", bound=Callable[..., None])


def _for_tracked(hook: Hook) -> Hook:
    """Run ``hook`` for tracked messages only, and let no exception out of it."""

    @functools.wraps(hook)
    def guarded(
        self: StateMiddleware, broker: dramatiq.Broker, message: Any, *args: Any, **kwargs: Any
    ) -> None:
        try:
            for_state = message.kwargs.get(FOR_STATE)
            if for_state is None:
                return
            if isinstance(for_state, dict):
                hook(self, broker, message, *args, **kwargs)
            else:
                logger.debug(
                    "Message %s is not tracked: its %s is a %s, not a dict.",
                    message.message_id,
                    FOR_STATE,
                    type(for_state).__name__,
                )
        except Exception:
            logger.exception(
                "%s could not track message %s of actor %s; the message itself is processed as "
                "ever.",
                hook.__name__,
                message.message_id,
                message.actor_name,
            )

    return guarded  # type: ignore[return-value]


class StateMiddleware(dramatiq.Middleware):
    """Keeps a ``Task`` row true for each message that carries a ``for_state`` dictionary.

    It works at any position among the middleware.  Constructing it is inert: no thread is
    started and no model imported before the first tracked message.

    Parameters (each wins over its namesake in the ``TASKSTATE`` setting):
      flush_interval(float): Under load, at most one flush per so many seconds; 0 sets no limit.
      max_batch_size(int): Rows per batch.
      max_pending(int): Messages kept through an outage.
      shutdown_timeout(float): Seconds that the last flush of a process may take.
      synchronous(bool): Write each transition at once in the calling thread; for tests.
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
        synchronous: bool | None = None,
        store: str | None = None,
    ) -> None:
        self._options = Options(
            flush_interval=flush_interval,
            max_batch_size=max_batch_size,
            max_pending=max_pending,
            shutdown_timeout=shutdown_timeout,
            synchronous=synchronous,
            store=store,
        )
        self._writer = Writer(
            make_flusher=self._make_flusher,
            config=self._options,
            watch=process.watch,
        )
        self._this_thread = ThisThread()
        self._warned: set[tuple[str, str]] = set()

    # Enqueueing: in a web process, or in a worker that retries or forwards.

    @_for_tracked
    def before_enqueue(
        self, broker: dramatiq.Broker, message: Any, delay: int | None = None
    ) -> None:
        """Count the hop, before the message is encoded."""
        if isinstance(message, MessageProxy):
            # A broker may enqueue the proxy itself: take its run's hop before it changes.
            run: Run | None = runs.run_of(message)
        else:
            run = self._this_thread.run
        if run is not None and run.message_id == message.message_id:
            is_retry = runs.attempt_of(message) > run.attempt
            if is_retry and run.started_at is not None:
                message.options[runs.STARTED_AT_OPTION] = run.started_at
        message.options[runs.HOP_OPTION] = min(runs.hop_of(message) + 1, MAX_HOP)

    @_for_tracked
    def after_enqueue(
        self, broker: dramatiq.Broker, message: Any, delay: int | None = None
    ) -> None:
        """Push enqueued, or delayed."""
        moment = runs.now()
        hop = runs.hop_of(message)
        run = self._this_thread.run
        self._this_thread.enqueued = (message.message_id, hop)
        if run is not None and run.message_id == message.message_id and hop > run.hop:
            run.superseded = True
        # Delay 0 is a delay as well: the message goes by the delay queue.
        status = Status.ENQUEUED if delay is None else Status.DELAYED
        self._push(
            status,
            fields=self._fields_of(message),
            hop=hop,
            attempt=runs.attempt_of(message),
            started_at=runs.carried_start(message),
            moment=moment,
        )

    # Processing: in a worker thread.

    @_for_tracked
    def before_process_message(self, broker: dramatiq.Broker, message: Any) -> None:
        """Push running."""
        moment = runs.now()
        run = runs.run_of(message)
        self._this_thread.run = run
        carried = runs.carried_start(message)
        run.started_at = moment.time if carried is None else carried
        run.fields = self._fields_of(message)
        self._push_run(Status.RUNNING, run, moment)

    @_for_tracked
    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: Any,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """Note when the run ended, and how; whether that is final shows at the ack."""
        run = runs.run_of(message)
        run.ended = runs.now()
        run.raised = exception is not None

    @_for_tracked
    def after_skip_message(self, broker: dramatiq.Broker, message: Any) -> None:
        """Note that the message was skipped."""
        run = runs.run_of(message)
        run.ended = runs.now()
        run.skipped = True

    @_for_tracked
    def before_ack(self, broker: dramatiq.Broker, message: Any) -> None:
        """Push done or skipped, or failed if the message raised and is not retried."""
        message_id, hop = self._this_thread.leave()
        run: Run | None = runs.known_run(message)
        if run is None or run.ended is None:
            return  # A delayed copy that became due, for one: it didn't run.
        # An exception may have kept our own hook from seeing the run begin.
        is_retried = run.superseded or (message_id == run.message_id and hop > run.hop)
        if not run.raised:
            self._settle(Status.DONE, message, run)
        elif not is_retried:
            self._settle(Status.FAILED, message, run)

    @_for_tracked
    def before_nack(self, broker: dramatiq.Broker, message: Any) -> None:
        """Push failed, or skipped."""
        self._this_thread.leave()
        self._settle(Status.FAILED, message, runs.run_of(message))

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: Any) -> None:
        """Write what is pending, for a bounded time."""
        try:
            self._writer.stop()
        except Exception:
            logger.exception("The last flush of this worker failed.")

    # Where it goes.

    def _make_flusher(self) -> Flusher:
        return Flusher(open_store=self._open_store, announce=_announce)

    def _open_store(self) -> Store:
        # Here, because the middleware is made before models can be imported.
        from .stores.choice import open_store

        return open_store(self._options().store, _is_listened)

    # From a hook to a push.

    def _settle(self, status: Status, message: Any, run: Run) -> None:
        if run.settled:
            return
        if run.skipped:
            status = Status.SKIPPED
            run.started_at = None
        if run.fields is None:
            run.fields = self._fields_of(message)
        self._push_run(status, run, run.ended or runs.now())
        run.settled = True

    def _push_run(self, status: Status, run: Run, moment: Moment) -> None:
        self._push(
            status,
            fields=run.fields,
            hop=run.hop,
            attempt=run.attempt,
            started_at=run.started_at,
            moment=moment,
        )

    def _push(
        self,
        status: Status,
        *,
        fields: MessageFields | None,
        hop: int,
        attempt: int,
        started_at: int | None,
        moment: Moment,
    ) -> None:
        if fields is None:
            return
        self._writer.push(
            Transition(
                rank=pack_rank(status, hop, moment.time),
                message_id=fields.message_id,
                actor_name=fields.actor_name,
                queue_name=fields.queue_name,
                attempt=attempt,
                enqueued_at=fields.enqueued_at,
                started_at=started_at,
                user_pk=fields.user_pk,
                description=fields.description,
                model_name=fields.model_name,
                app_name=fields.app_name,
                happened_at=moment.monotonic,
            )
        )

    def _fields_of(self, message: Any) -> MessageFields | None:
        """Return what the columns take from ``message``, or None if it can't be tracked."""
        try:
            message_id = values.clean_message_id(message.message_id)
        except ValueError:
            self._warn_once(
                message,
                "A message of actor %s is not tracked: its id %.100r is no UUID. Leave it to "
                "Dramatiq to make the ids, or use uuid.uuid4(). Later ones of this actor are not "
                "logged.",
                message.message_id,
            )
            return None
        for_state: dict[str, Any] = message.kwargs[FOR_STATE]
        return MessageFields(
            message_id=message_id,
            actor_name=values.clean_text(message.actor_name, values.ACTOR_NAME_LENGTH),
            queue_name=values.clean_text(q_name(message.queue_name), values.QUEUE_NAME_LENGTH),
            enqueued_at=values.clean_time(message.message_timestamp),
            user_pk=self._user_pk(message, for_state.get("user_pk")),
            description=values.clean_text(for_state.get("description"), values.DESCRIPTION_LENGTH),
            model_name=values.clean_text(for_state.get("model_name"), values.MODEL_NAME_LENGTH),
            app_name=values.clean_text(for_state.get("app_name"), values.APP_NAME_LENGTH),
        )

    def _user_pk(self, message: Any, value: object) -> UserPk:
        if value is None:
            return None
        try:
            return _user_key().clean(value)
        except ValueError as error:
            self._warn_once(
                message,
                "A task of actor %s is tracked without its user: for_state['user_pk'] is %.100r, "
                "and %s. Later ones of this actor are not logged.",
                value,
                error,
            )
            return None

    def _warn_once(self, message: Any, text: str, *details: object) -> None:
        key = (text, message.actor_name)
        if key not in self._warned and len(self._warned) < _MAX_WARNED:
            self._warned.add(key)
            logger.warning(text, message.actor_name, *details)


def _user_key() -> values.UserKey:
    if not apps.models_ready:
        raise ValueError("the apps aren't loaded yet")
    # Here, because the middleware is made before models can be imported.
    from .models import user_key

    return user_key()


def _is_listened() -> bool:
    return task_changed.has_listeners(StateMiddleware)


def _announce(change: Change) -> None:
    """Send ``task_changed`` for a row.  Django logs a receiver that raises an ``Exception``."""
    task_changed.send_robust(
        sender=StateMiddleware, task=change.task, transitions=change.entry.statuses
    )
