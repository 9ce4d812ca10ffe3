"""Waits for what a worker, in this process or in another one, makes of a message."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

from django.db import connections

import taskstate
from taskstate import conf
from taskstate.threads import Deadline
from taskstate.transitions import Status
from taskstate.values import id_of

if TYPE_CHECKING:
    # pytest may load the fixtures before models can be imported.
    from taskstate.models import Task

#: The longest pause between two looks, in seconds.
PAUSE_SECONDS = 0.05


def wait_for_status(task: Any, status: str, *others: str, timeout: float = 10.0) -> Task:
    """Wait until a task has a status, or one of several, and return it.

    Parameters:
      task: The message as ``send`` returned it, the task, or the id that both share.
      status(str): One of ``taskstate.models.Status``; more may follow.
      timeout(float): How many seconds to wait at most.

    Returns:
      Task: The row as it is in the database.

    Raises:
      AssertionError: If it hasn't come to that in time; the text says what was seen last.
      RuntimeError: If it can't come to that, because the test is in a transaction.
      ValueError: If there is no such status, or the id is none.
    """
    key = id_of(task)
    wanted = [_status_from(each) for each in (status, *others)]
    deadline = Deadline(timeout)
    while True:
        time_is_up = not deadline.left()
        found = _look(key, deadline.left())
        if found is not None and found.status in wanted:
            return found
        _refuse_transactions()
        if time_is_up:
            names = " or ".join(wanted)
            raise AssertionError(
                f"Task {key} was not {names} within {timeout:g} seconds. {_describe(found)}"
            )
        time.sleep(min(PAUSE_SECONDS, deadline.left()))


def _status_from(text: str) -> str:
    try:
        return Status(text).value
    except ValueError:
        known = ", ".join(each.value for each in Status)
        raise ValueError(f"{text!r} is no status of a task. They are {known}.") from None


def _look(key: uuid.UUID, seconds: float) -> Task | None:
    from taskstate.models import Task

    if not connections[conf.tasks_database()].in_atomic_block:
        taskstate.flush(timeout=seconds)
    return Task.objects.filter(pk=key).first()


def _refuse_transactions() -> None:
    """Say at once that waiting is in vain, rather than after all that time."""
    alias = conf.tasks_database()
    if connections[alias].in_atomic_block:
        raise RuntimeError(
            f"This test is in a transaction of the database {alias!r}: no worker sees what it has "
            "written, and it may not see what a worker writes. Use a TransactionTestCase, or "
            "pytest.mark.django_db(transaction=True); or run the message in this thread, with "
            "run_task() or run_messages()."
        )


def _describe(found: Task | None) -> str:
    if found is None:
        return (
            "There is no row of it: it was not tracked, or never sent, or no process that tracked "
            "it could write it."
        )
    error = f" Its last error: {found.error}." if found.error else ""
    hint = " Is there a worker?" if found.status == Status.ENQUEUED else ""
    return f"It is {found.status}, in attempt {found.attempt + 1}.{error}{hint}"
