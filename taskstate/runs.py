"""What this process knows of a message while it runs: read once, kept until its ack."""

from __future__ import annotations

import threading
import time
from contextvars import ContextVar
from typing import Any, Callable, Tuple

from . import values
from .transitions import MAX_HOP, Extras, MessageFields, Status, Transition, pack_rank

#: The present, in milliseconds since 1970 and in monotonic seconds.
Moment = Tuple[int, float]

#: How often the message has been enqueued; absent counts as 0.
HOP_OPTION = "taskstate_hop"
#: When the first run of a message that is retried began, in milliseconds since 1970.
STARTED_AT_OPTION = "taskstate_started_at"
#: Why the last attempt failed: the error in one line, and its traceback.
ERROR_OPTION = "taskstate_error"
TRACEBACK_OPTION = "taskstate_traceback"

#: Where the run of a message is kept, on Dramatiq's proxy for it.
_RUN_ATTRIBUTE = "_taskstate_run"


def now() -> Moment:
    """Return the present."""
    return int(time.time() * 1000), time.monotonic()


class Run:
    """One run of a message by this process, from its receipt to its acknowledgement."""

    # What a run begins with stands here, so that making one costs three assignments.

    #: When the first run began, by the message's own account or because this is the first.
    started_at: int | None = None
    fields: MessageFields | None = None
    #: When its outcome was known; Dramatiq may tell twice, the last time counts.
    ended: Moment | None = None
    #: Whether its outcome was an exception.
    raised = False
    skipped = False
    #: Whether the message was enqueued anew during the run, by a retry above all.
    superseded = False
    #: Whether its outcome was pushed.
    settled = False
    #: Whether any of the following is there.
    has_extras = False
    #: Progress in percent, its text, and when they were told.
    said: tuple[float | None, str | None, Moment] | None = None
    result: str | None = None
    #: Of this attempt, or as long as it goes well of the last one.
    error: str | None = None
    traceback: str | None = None
    #: Whether a report of what was said is on its way to the writer.
    is_reporting = False
    #: The time of the newest fact that says it is running, in milliseconds since 1970: no two of
    #: a run have the same rank.
    told_at = 0
    _is_noted = False

    def __init__(self, message: Any) -> None:
        self.message_id = message.message_id
        self.hop = hop_of(message)
        self.attempt = attempt_of(message)

    def carry_error(self, message: Any) -> None:
        """Take over why the last attempt failed."""
        self.error, self.traceback = carried_error(message)
        self.has_extras = self.error is not None

    def note_error(self, exception: BaseException) -> None:
        """Note why this attempt failed.  Nothing of the exception is kept."""
        if self._is_noted:
            return
        self.error = values.describe_exception(exception)
        self.traceback = values.format_traceback(exception)
        self.has_extras = self._is_noted = True

    def extras(self, status: Status) -> Extras:
        """Return what a fact about this run holds besides the usual."""
        percent, text, _ = self.said or (None, None, None)
        if text is not None:
            text = values.clean_text(text, values.PROGRESS_TEXT_LENGTH)
        is_done = status is Status.DONE
        return Extras(
            progress=percent,
            progress_text=text,
            error=None if is_done else self.error,
            traceback=None if is_done else self.traceback,
            result=self.result,
        )

    def report(self) -> Transition | None:
        """Make a fact of what was said last; None if the outcome is known meanwhile.  Called in
        the writer's thread, once for all that was said since the last time."""
        self.is_reporting = False  # First: what is said from now on needs another report.
        said, fields = self.said, self.fields
        if said is None or fields is None or self.ended is not None:
            return None
        time_ms, monotonic = said[2]
        time_ms = self.told_at = max(time_ms, self.told_at + 1)
        return Transition(
            rank=pack_rank(Status.RUNNING, self.hop, time_ms),
            attempt=self.attempt,
            started_at=self.started_at,
            happened_at=monotonic,
            fields=fields,
            extras=self.extras(Status.RUNNING),
        )

    def withdraw(self) -> None:
        """Note that a report was dropped for want of room."""
        self.is_reporting = False


#: The run that this code is a part of, and where its reports go.
here: ContextVar[tuple[Run, Callable[[Any], None]] | None] = ContextVar(
    "taskstate_run", default=None
)


def current_run() -> tuple[Run, Callable[[Any], None]] | None:
    """Return the tracked run that the calling code is a part of, and where its reports go; None
    outside of one, or once it has ended."""
    found = here.get()
    return None if found is None or found[0].ended is not None else found


def run_of(proxy: Any, message: Any) -> Run:
    """Return the run of ``message`` that Dramatiq's proxy stands for; the same one each time."""
    run = known_run(proxy)
    if run is None:
        run = proxy.__dict__[_RUN_ATTRIBUTE] = Run(message)
    return run


def known_run(proxy: Any) -> Run | None:
    """Return the run that Dramatiq's proxy stands for, if ``run_of`` was asked for it before."""
    # Not by getattr: the proxy would look for it in the message, and fail by an exception.
    run: Run | None = proxy.__dict__.get(_RUN_ATTRIBUTE)
    return run


class ThisThread(threading.local):
    """What this worker thread is at."""

    run: Run | None = None
    #: The id and the hop of the message that it enqueued last.
    enqueued: tuple[str, int] = ("", 0)

    def leave(self) -> tuple[str, int]:
        """Forget the run; return what was enqueued last."""
        enqueued = self.enqueued
        self.run, self.enqueued = None, ("", 0)
        return enqueued


def hop_of(message: Any) -> int:
    """Return how often ``message`` has been enqueued; 0 if it doesn't say."""
    return values.clean_count(message.options.get(HOP_OPTION), MAX_HOP)


def attempt_of(message: Any) -> int:
    """Return how many runs of ``message`` came before."""
    attempt = message.options.get("retries")  # Absent on the first attempt.
    return 0 if attempt is None else values.clean_count(attempt, values.MAX_ATTEMPT)


def carried_start(message: Any) -> int | None:
    """Return when the first run of a message that is retried began."""
    started_at = message.options.get(STARTED_AT_OPTION)
    return None if started_at is None else values.clean_time(started_at)


def carried_error(message: Any) -> tuple[str | None, str | None]:
    """Return why the last attempt of a message failed, in one line, and its traceback."""
    error = message.options.get(ERROR_OPTION)
    if error is None:
        return None, None
    trace = values.clean_text(message.options.get(TRACEBACK_OPTION), values.TRACEBACK_LENGTH)
    return values.clean_line(error, values.ERROR_LENGTH), trace


def extras_of_waiting(message: Any, *, is_delayed: bool) -> Extras | None:
    """Return what a message that was enqueued has to say besides the usual: why its last attempt
    failed, and when it is due."""
    error, trace = carried_error(message)
    due = values.clean_time(message.options.get("eta")) if is_delayed else None
    if error is None and not due:
        return None
    return Extras(error=error, traceback=trace, next_attempt_at=due or None)
