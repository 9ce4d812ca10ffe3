"""The message options that tracking reads and writes.  They travel with the message.

Options come from outside.  A value that tracking can't have written counts as absent, or is
sanitized.
"""

from __future__ import annotations

from typing import Any, List

from taskstate.tracking.failure import NO_FAILURE, Failure
from taskstate.transitions import sanitize
from taskstate.transitions.stamp import LAG_MS, LONG_LAG_MS, Stamps, stamps_of_enqueue
from taskstate.transitions.transition import TaskDetails
from taskstate.utils import clock
from taskstate.utils.clock import MAX_TIME

#: The stamp of the message: see ``transitions.stamp``.
STAMP_OPTION = "taskstate_stamp"
#: When the first run of a message that is retried began, in milliseconds since 1970.
STARTED_AT_OPTION = "taskstate_started_at"
# Why the last attempt failed: one option for each field of ``Failure``.
ERROR_OPTION = "taskstate_error"
USER_ERROR_OPTION = "taskstate_user_error"
TRACEBACK_OPTION = "taskstate_traceback"


class UsedStamp(List[int]):
    """The stamp on a message object that has been enqueued.

    It equals the number that was sent, but it is encoded as a list.  If the same object is enqueued
    again, a broker that encodes messages before the hooks sends the list.  By this form the run
    recognizes the stamp of an earlier enqueue.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self[0] == other if isinstance(other, int) else super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # As for every list.

    def __repr__(self) -> str:
        return repr(self[0])


def write_stamp(message: Any, run_stamp: int, *, may_get_lost: bool) -> Stamps:
    """Write the stamp of this enqueue into the options of ``message``, and return the stamps.

    Parameters:
      run_stamp(int): The stamp of the run, if a run enqueues its own message again; otherwise 0.
      may_get_lost(bool): Whether the broker is known to lose what is written here.
    """
    options = message.options
    now = clock.time_ns() // 1_000_000 & MAX_TIME
    created_at = message.message_timestamp
    if type(created_at) is not int:
        created_at = sanitize.clean_time(created_at)
    earlier = run_stamp
    if STAMP_OPTION in options:
        earlier = max(abs(read_stamp(message)), run_stamp)
    lag = LONG_LAG_MS if may_get_lost else LAG_MS
    if not earlier and now - lag <= created_at <= now:
        stamps = created_at, now  # What stamps_of_enqueue returns, for almost all messages.
    else:
        stamps = stamps_of_enqueue(earlier, created_at, now, lag)
    options[STAMP_OPTION] = stamps[1]
    return stamps


def find_stamps(message: Any, *, may_get_lost: bool) -> Stamps:
    """Return the stamps of a message that was enqueued, for a thread that has not kept them."""
    stamp = read_stamp(message)
    if stamp > 0:  # Another thread has called ``before_enqueue``.
        return stamp, stamp
    # ``before_enqueue`` was interrupted by an exception, or the message was not tracked yet.
    return write_stamp(message, 0, may_get_lost=may_get_lost)


def read_stamp(message: Any) -> int:
    """Return the stamp of ``message``; 0 if it has none.  A used stamp is returned as a negative
    number: the message was enqueued again since then, with a stamp that is not known."""
    found = message.options.get(STAMP_OPTION)
    if type(found) is int:
        return found if 0 <= found <= MAX_TIME else 0
    if isinstance(found, list) and len(found) == 1 and type(found[0]) is int:
        return -found[0] if 0 <= found[0] <= MAX_TIME else 0
    return 0


def read_attempt(message: Any) -> int:
    """Return the number of the attempt of ``message``: 1 for the first one."""
    retries = message.options.get("retries")  # Absent in the first attempt.
    return 1 if retries is None else 1 + sanitize.clean_count(retries, sanitize.MAX_ATTEMPT - 1)


def read_started_at(message: Any) -> int | None:
    """Return when the first run of a message that is retried began, in milliseconds since 1970."""
    started_at = message.options.get(STARTED_AT_OPTION)
    return None if started_at is None else sanitize.clean_time(started_at) or None


def write_failure(message: Any, failure: Failure) -> None:
    """Write why the last attempt failed into the options of a message that is enqueued again.  For
    a field that is None, remove what an earlier attempt has written."""
    texts = {
        ERROR_OPTION: failure.error,
        USER_ERROR_OPTION: failure.user_error,
        TRACEBACK_OPTION: failure.traceback,
    }
    for option, text in texts.items():
        if text is None:
            message.options.pop(option, None)
        else:
            message.options[option] = text


def read_failure(message: Any) -> Failure:
    """Return why the last attempt of a message failed."""
    options = message.options
    error = options.get(ERROR_OPTION)
    if error is None:
        return NO_FAILURE
    user_error = options.get(USER_ERROR_OPTION)
    if user_error is not None:
        user_error = sanitize.clean_line(user_error, sanitize.ERROR_LENGTH)
    return Failure(
        error=sanitize.clean_line(error, sanitize.ERROR_LENGTH),
        user_error=user_error,
        traceback=sanitize.clean_text(options.get(TRACEBACK_OPTION), sanitize.TRACEBACK_LENGTH),
    )


def read_details(message: Any, *, is_delayed: bool) -> TaskDetails | None:
    """Return the details of a message that was enqueued: why its last attempt failed, and when it
    is due.  Return None if there are none."""
    failure = read_failure(message)
    due = sanitize.clean_time(message.options.get("eta")) if is_delayed else None
    if failure.error is None and not due:
        return None
    return TaskDetails(next_attempt_at=due or None, **failure._asdict())
