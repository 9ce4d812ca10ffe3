"""Waiting until a worker, in this process or another one, has processed a message."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

from django.db import OperationalError, connections

import taskstate
from taskstate import conf
from taskstate.testing.rows import PAUSE_SECONDS, find_task, is_locked
from taskstate.transitions.sanitize import to_uuid
from taskstate.transitions.status import Status
from taskstate.utils.sync import Deadline

if TYPE_CHECKING:
    # pytest may load the fixtures before models can be imported.
    from taskstate.models import Task


def wait_for_status(task: Any, status: str, *others: str, timeout: float = 10.0) -> Task:
    """Wait until a task has a status, or one of several, and return the task.

    It also waits while SQLite reports that the database or the table is locked.

    Parameters:
      task: The message as ``send`` returned it, the task, or the id that both share.
      status(str): One of ``taskstate.models.Status``.  More statuses may follow.
      timeout(float): How many seconds to wait at most.

    Returns:
      Task: The row as it is in the database.

    Raises:
      AssertionError: If the task does not get the status in time.  The text describes its last
        state.
      RuntimeError: If waiting can't help, because the test is in a transaction.
      ValueError: If a status or the id is not valid.
    """
    key = to_uuid(task)
    wanted = [_status_from(each) for each in (status, *others)]
    deadline = Deadline(timeout)
    while True:
        time_is_up = not deadline.left()
        try:
            found = _look(key, deadline)
        except OperationalError as error:
            if not is_locked(error):
                raise
            raise AssertionError(
                f"{_failure(key, wanted, timeout)} It could not be read: {error}. Check whether "
                "another thread keeps a transaction open in which it has written tasks."
            ) from error
        if found is not None and found.status in wanted:
            return found
        _refuse_transactions()
        if time_is_up:
            raise AssertionError(f"{_failure(key, wanted, timeout)} {_describe(found)}")
        time.sleep(min(PAUSE_SECONDS, deadline.left()))


def _status_from(text: str) -> str:
    try:
        return Status(text).value
    except ValueError:
        known = ", ".join(each.value for each in Status)
        raise ValueError(f"{text!r} is not a status of a task; use one of {known}.") from None


def _look(key: uuid.UUID, deadline: Deadline) -> Task | None:
    if not connections[conf.tasks_database()].in_atomic_block:
        taskstate.flush(timeout=deadline.left())
    return find_task(key, deadline.left())


def _refuse_transactions() -> None:
    """Raise at once if waiting can't help, rather than after the timeout."""
    alias = conf.tasks_database()
    if connections[alias].in_atomic_block:
        raise RuntimeError(
            f"This test is in a transaction of the database {alias!r}: workers don't see what it "
            "has written, and it may not see what they write. Use a TransactionTestCase or "
            "pytest.mark.django_db(transaction=True), or run the message in this thread with "
            "run_task() or run_messages()."
        )


def _failure(key: uuid.UUID, wanted: list[str], timeout: float) -> str:
    return f"Task {key} was not {' or '.join(wanted)} within {timeout:g} seconds."


def _describe(found: Task | None) -> str:
    if found is None:
        return (
            "There is no row for it: it was not sent, it was not tracked, or the process that "
            "tracked it could not write the row."
        )
    error = f" Its last error: {found.error}." if found.error else ""
    hint = " Is there a worker running?" if found.status == Status.ENQUEUED else ""
    return f"It is {found.status}, in attempt {found.attempt}.{error}{hint}"
