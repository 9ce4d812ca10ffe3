"""The timeline of a task: its past events, and what it is doing or waiting for now."""

from __future__ import annotations

import datetime
from typing import NamedTuple

from django.utils import timezone
from django.utils.translation import gettext as _

from taskstate.models import Status, Task
from taskstate.transitions.status import LOST_ERROR
from taskstate.utils.durations import elapsed_seconds, format_duration


class Event(NamedTuple):
    """An event that has happened, or that the task is waiting for."""

    #: The last part of the CSS class: a status, or "past".
    kind: str
    title: str
    at: datetime.datetime | None = None
    note: str = ""


def timeline(task: Task) -> list[Event]:
    """Return the events of a task, oldest first.  The last one is the task's present state."""
    events = [Event("past", _("Enqueued"), task.enqueued_at)]
    if task.started_at is not None:
        waited = format_duration((task.started_at - task.enqueued_at).total_seconds())
        note = _("after waiting for %(duration)s") % {"duration": waited}
        events.append(Event("past", _("Started"), task.started_at, note))
    if task.attempt > 1 and task.status not in {Status.DONE, Status.FAILED, Status.SKIPPED}:
        # The time is known only until the next transition, which replaces updated_at.
        at = task.updated_at if task.status == Status.DELAYED else None
        title = _("Attempt %(number)d failed") % {"number": task.attempt - 1}
        events.append(Event("past", title, at, task.error or ""))
    events.append(_present(task))
    return events


def _present(task: Task) -> Event:
    attempt = _("attempt %(number)d") % {"number": task.attempt}
    if task.status == Status.DELAYED:
        return _delayed(task, attempt)
    if task.status == Status.ENQUEUED:
        waited = (timezone.now() - task.updated_at).total_seconds()
        duration = format_duration(waited, units=1)
        title = _("Waiting for a worker for %(duration)s") % {"duration": duration}
        return Event("enqueued", title, None, attempt)
    if task.status == Status.RUNNING:
        title = _("Running, %(attempt)s") % {"attempt": attempt}
        worker = _("on %(worker)s") % {"worker": task.worker} if task.worker else ""
        return Event("running", title, None, worker)
    return _ended(task)


def _delayed(task: Task, attempt: str) -> Event:
    note = attempt if task.attempt > 1 else _("sent with a delay")
    due = task.next_attempt_at
    if due is None:
        return Event("delayed", _("Waiting until it is due"), None, note)
    left = (due - timezone.now()).total_seconds()
    duration = {"duration": format_duration(abs(left))}
    if left > 0:
        return Event("delayed", _("Due in %(duration)s") % duration, due, note)
    title = _("Due %(duration)s ago, waiting for a worker") % duration
    return Event("delayed", title, due, note)


def _ended(task: Task) -> Event:
    title = str(Status(task.status).label)
    note = ""
    if task.status == Status.FAILED and task.error == LOST_ERROR:
        note = _("marked as lost by check_tasks: it had not been updated for too long")
    elif task.status == Status.FAILED:
        note = _("%(error)s, at attempt %(number)d") % {
            "error": task.error or _("unknown error"),
            "number": task.attempt,
        }
    elif task.status == Status.DONE:
        took = elapsed_seconds(task.started_at, task.finished_at, timezone.now())
        note = "" if took is None else _("after %(duration)s") % {"duration": format_duration(took)}
    return Event(task.status, title, task.finished_at, note)
