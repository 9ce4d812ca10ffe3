"""One run of a message by this process, from its receipt to its acknowledgment."""

from __future__ import annotations

import sys
import threading
from contextvars import ContextVar
from typing import Any, Callable, NamedTuple

from taskstate import tenants
from taskstate.tracking.failure import NO_FAILURE, Failure
from taskstate.tracking.options import (
    STAMP_OPTION,
    STARTED_AT_OPTION,
    read_attempt,
    read_failure,
    read_stamp,
    read_started_at,
    write_failure,
)
from taskstate.transitions import sanitize
from taskstate.transitions.rank import pack_rank
from taskstate.transitions.stamp import Stamps, stamp_of_run
from taskstate.transitions.status import Status
from taskstate.transitions.transition import (
    TENANT,
    MessageFields,
    RawFields,
    RawTransition,
    TaskDetails,
)
from taskstate.utils import clock
from taskstate.utils.clock import MAX_TIME, Timestamp

#: The attribute of Dramatiq's proxy for a message that holds the run.
RUN_ATTRIBUTE = "_taskstate_run"

#: How many messages a thread may be enqueueing at the same time, nested in each other's hooks.
_MAX_ENQUEUEING = 32

#: The value of ``ThreadState.last_enqueued`` if the thread has enqueued nothing.
NOTHING_ENQUEUED = ("", 0)


class Progress(NamedTuple):
    """The progress that an actor reported last."""

    #: From 0 to 100, or None.
    percent: float | None
    text: str | None
    reported_at: Timestamp


class Run:
    """One run of a message by this process."""

    # The initial values are class attributes, so that creating a run takes few assignments.

    #: When the first run began, in milliseconds since 1970.
    started_at: int | None = None
    #: None until the run has begun.
    fields: RawFields | MessageFields | None = None
    #: When it ended.  Dramatiq may report the end twice; the last time counts.
    ended_at: Timestamp | None = None
    #: Whether it ended with an exception.
    raised = False
    skipped = False
    #: Whether the message was enqueued again during the run, usually for a retry.
    requeued = False
    #: Whether the transition to its outcome was pushed.
    outcome_pushed = False
    #: Whether the message is being acknowledged or rejected.
    is_released = False
    #: Whether it has a progress, a result or a failure: whether ``details`` returns any.
    has_details = False
    progress: Progress | None = None
    #: JSON, as text.
    result: str | None = None
    #: Why this attempt failed.  Until it fails: why the last attempt failed.
    failure = NO_FAILURE
    #: Whether the buffer holds this run, to get a transition with its progress.
    is_reporting = False
    #: The time of the last transition to running, in milliseconds since 1970.  Each has a later
    #: time than the one before, so that no two of them have the same rank.
    last_reported_ms = 0
    #: The run that has sent this message, if the broker runs it at once, in the same thread.
    outer: Run | None = None
    #: Whether the message arrived with its stamp.
    is_stamped = True
    _error_is_recorded = False

    def __init__(self, message: Any, state: dict[str, Any]) -> None:
        self.message_id = message.message_id
        #: The ``for_state`` of the message.
        self.state = state
        options = message.options
        self.attempt = read_attempt(message) if "retries" in options else 1
        stamp = options.get(STAMP_OPTION)
        if type(stamp) is not int or not 0 < stamp <= MAX_TIME:
            self.is_stamped = False
            created_at = sanitize.clean_time(message.message_timestamp)
            stamp = stamp_of_run(read_stamp(message), created_at, clock.now()[0])
        self.stamp: int = stamp

    def restore_error(self, message: Any) -> None:
        """Read why the last attempt failed from the options of the message."""
        self.failure = read_failure(message)
        self.has_details = self.failure.error is not None

    def record_error(self, exception: BaseException) -> None:
        """Record why this attempt failed."""
        if self._error_is_recorded:
            return
        self.failure = Failure.of(exception)
        self.has_details = self._error_is_recorded = True

    def record_unknown_actor(self, message: Any) -> None:
        """Record that this worker does not know the actor.  The error of an earlier attempt is kept
        in the text."""
        self.started_at = read_started_at(message)
        before = read_failure(message)
        text = (
            f"ActorNotFound: this worker does not know actor {message.actor_name!r}; was it "
            "restarted after the last deployment?"
        )
        if before.error is not None:
            text += f" The attempt before: {before.error}"
        self.failure = before._replace(error=sanitize.clean_line(text, sanitize.ERROR_LENGTH))
        self.has_details = True

    def write_for_next_run(self, message: Any) -> None:
        """Write into the options of the message, if this run enqueues it again, what the next run
        needs."""
        is_retry = read_attempt(message) > self.attempt
        if is_retry and self.started_at is not None:
            message.options[STARTED_AT_OPTION] = self.started_at
        # A retry is enqueued while the exception is handled.  Whether that is before or after
        # ``after_process_message`` depends on the order of the middleware.
        exception = sys.exc_info()[1]
        if is_retry and exception is not None:
            self.record_error(exception)
            write_failure(message, self.failure)
        elif exception is None:  # The actor enqueues its own message again, and has not failed.
            write_failure(message, NO_FAILURE)

    def infer_outcome(self) -> None:
        """Take the exception that is being handled as the outcome of this run, because the broker
        did not call ``after_process_message``."""
        exception = sys.exc_info()[1]
        if self.fields is not None and exception is not None:
            self.ended_at = clock.now()
            self.raised = True
            self.record_error(exception)

    def details(self, status: Status) -> TaskDetails:
        """Return the details of a transition of this run to ``status``."""
        percent, text, _ = self.progress or (None, None, None)
        if text is not None:
            text = sanitize.clean_text(text, sanitize.PROGRESS_TEXT_LENGTH)
        failure = NO_FAILURE if status is Status.DONE else self.failure
        return TaskDetails(
            progress=percent, progress_text=text, result=self.result, **failure._asdict()
        )

    def to_transition(self) -> RawTransition | None:
        """Return a transition with the last progress, or None if the run has ended.

        The writer calls this once for all the progress that was reported since its last call.
        """
        self.is_reporting = False  # First: later progress needs a new transition.
        progress, fields = self.progress, self.fields
        if progress is None or fields is None or self.ended_at is not None:
            return None
        time_ms, monotonic = progress.reported_at
        time_ms = self.last_reported_ms = max(time_ms, self.last_reported_ms + 1)
        rank = pack_rank(Status.RUNNING, self.stamp, time_ms)
        details = self.details(Status.RUNNING)
        return (rank, self.attempt, self.started_at, monotonic, fields, details)

    def on_dropped(self) -> None:
        """Record that the buffer dropped this run, so that the next progress is pushed again."""
        self.is_reporting = False


#: The run that the calling code belongs to, and the function that pushes its progress.
_current_run: ContextVar[tuple[Run, Callable[[Any], None]] | None] = ContextVar(
    "taskstate_run", default=None
)
set_current_run = _current_run.set


def current_run() -> tuple[Run, Callable[[Any], None]] | None:
    """Return the run that the calling code belongs to, and the function that pushes its progress.
    Return None outside of a run, and after it has ended."""
    found = _current_run.get()
    if found is None or found[0].ended_at is not None or found[0].is_released:
        return None
    return found


# Dramatiq makes one ``MessageProxy`` for each message that a worker receives, and passes it to all
# hooks until the message is acknowledged.  So its attribute holds the run.


def get_or_create_run(message_proxy: Any, message: Any, state: dict[str, Any]) -> Run:
    """Return the run that the proxy for ``message`` holds.  Create it at the first call."""
    attributes = message_proxy.__dict__
    run: Run | None = attributes.get(RUN_ATTRIBUTE)
    if run is None:
        run = attributes[RUN_ATTRIBUTE] = Run(message, state)
    return run


def get_run(message: Any) -> Run | None:
    """Return the run that a message holds, or None if it was not created."""
    # Not with getattr: a proxy would look for it in its message, and raise an exception.
    try:
        run: Run | None = message.__dict__.get(RUN_ATTRIBUTE)
    except AttributeError:  # Up to Dramatiq 1.13, only proxies have attributes of their own.
        return None
    return run


class ThreadState:
    """What the hooks know about one thread."""

    def __init__(self) -> None:
        #: The run that it is processing.
        self.run: Run | None = None
        #: The id of the message that it has enqueued last, and the stamp of that transition.
        self.last_enqueued = NOTHING_ENQUEUED
        #: The stamps of the messages that it is enqueueing, by id.  There may be several: other
        #: middleware may send a message in a hook of another one.
        self.enqueueing: dict[str, Stamps] = {}

    def tenant(self) -> str | None:
        """Return the tenant of the run that the calling code belongs to; None outside of a run."""
        run = self.run
        if run is None:  # In a coroutine, or in a thread that an actor has started.
            found = current_run()
            run = None if found is None else found[0]
        return None if run is None or run.fields is None else tenants.clean_name(run.fields[TENANT])

    def begin_enqueue(self, message_id: str, stamps: Stamps) -> None:
        """Keep the stamps of a message from ``before_enqueue`` to ``after_enqueue``."""
        if len(self.enqueueing) >= _MAX_ENQUEUEING:
            self.enqueueing.clear()  # They belong to messages that could not be enqueued.
        self.enqueueing[message_id] = stamps

    def enter_nested(self, run: Run) -> None:
        """Make ``run`` the run of this thread, which may have another one already."""
        outer = self.run
        if outer is not None and outer is not run:
            if outer.ended_at is None:
                run.outer = outer  # The broker runs messages in the thread that sends them.
            if outer.message_id == run.message_id:
                outer.requeued = True  # The nested run is a retry.
        self.run = run


class ThisThread(threading.local):
    """Holds the state of the calling thread.  It has only one attribute, since reading one of a
    ``local`` takes three times as long as of any other object."""

    def __init__(self) -> None:
        self.state = ThreadState()
