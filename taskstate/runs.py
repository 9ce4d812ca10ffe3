"""What this process knows of a message while it runs: read once, kept until its ack."""

from __future__ import annotations

import threading
import time
from typing import Any, Tuple

from . import values
from .transitions import MAX_HOP, MessageFields

#: The present, in milliseconds since 1970 and in monotonic seconds.
Moment = Tuple[int, float]

#: How often the message has been enqueued; absent counts as 0.
HOP_OPTION = "taskstate_hop"
#: When the first run of a message that is retried began, in milliseconds since 1970.
STARTED_AT_OPTION = "taskstate_started_at"

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

    def __init__(self, message: Any) -> None:
        self.message_id = message.message_id
        self.hop = hop_of(message)
        self.attempt = attempt_of(message)


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
