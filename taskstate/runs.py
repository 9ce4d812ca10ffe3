"""What this process knows of a message while it runs: read once, kept until its ack."""

from __future__ import annotations

import threading
import time
from typing import Any, NamedTuple

from . import values
from .transitions import MAX_HOP, UserPk

#: How often the message has been enqueued; absent counts as 0.
HOP_OPTION = "taskstate_hop"
#: When the first run of a message that is retried began, in milliseconds since 1970.
STARTED_AT_OPTION = "taskstate_started_at"

#: Where the run of a message is kept, on Dramatiq's proxy for it.
_RUN_ATTRIBUTE = "_taskstate_run"


class Moment(NamedTuple):
    """The present, by two clocks."""

    #: Milliseconds since 1970.
    time: int
    #: Monotonic seconds.
    monotonic: float


def now() -> Moment:
    """Return the present."""
    return Moment(int(time.time() * 1000), time.monotonic())


class MessageFields(NamedTuple):
    """What doesn't change while a message is processed, made fit for the columns."""

    message_id: str
    actor_name: str
    queue_name: str
    enqueued_at: int
    user_pk: UserPk
    description: str
    model_name: str
    app_name: str


class Run:
    """One run of a message by this process, from its receipt to its acknowledgement."""

    def __init__(self, message: Any) -> None:
        self.message_id = message.message_id
        self.hop = hop_of(message)
        self.attempt = attempt_of(message)
        #: When the first run began, by the message's own account or because this is the first.
        self.started_at: int | None = None
        self.fields: MessageFields | None = None
        #: When its outcome was known; Dramatiq may tell twice, the last time counts.
        self.ended: Moment | None = None
        self.raised = False
        self.skipped = False
        #: Whether the message was enqueued anew during the run, by a retry above all.
        self.superseded = False
        self.settled = False


def run_of(message: Any) -> Run:
    """Return the run of a message that Dramatiq's proxy stands for; the same one each time."""
    run: Run | None = known_run(message)
    if run is None:
        run = Run(message)
        setattr(message, _RUN_ATTRIBUTE, run)
    return run


def known_run(message: Any) -> Run | None:
    """Return the run of a message if ``run_of`` was asked for it before."""
    run: Run | None = getattr(message, _RUN_ATTRIBUTE, None)
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
    return values.clean_count(message.options.get("retries"), values.MAX_ATTEMPT)


def carried_start(message: Any) -> int | None:
    """Return when the first run of a message that is retried began."""
    started_at = message.options.get(STARTED_AT_OPTION)
    return None if started_at is None else values.clean_time(started_at)
