"""What has happened to a task and what it waits for, in words, with its times."""

from __future__ import annotations

import datetime
from typing import NamedTuple

from django.utils import timezone
from django.utils.translation import gettext as _

from taskstate.models import Status, Task
from taskstate.times import run_seconds
from taskstate.transitions import LOST


class Event(NamedTuple):
    """Something that has happened, or that is awaited."""

    #: The last part of the CSS class: a status, or "past".
    kind: str
    title: str
    at: datetime.datetime | None = None
    note: str = ""


def since(time: datetime.datetime) -> str:
    """Return how long ago a time was, in its greatest unit."""
    return _parts((timezone.now() - time).total_seconds())[0]


def duration(seconds: float) -> str:
    """Return a duration in its two greatest units."""
    return " ".join(_parts(seconds))


def _parts(seconds: float) -> list[str]:
    """Return the two greatest units of a duration; 0 s if it is negative, since the clocks of two
    hosts may differ."""
    seconds = max(seconds, 0.0)
    if seconds < 10:  # noqa: PLR2004 - below that, fractions matter
        return [_("%(number)s s") % {"number": f"{seconds:.2f}".rstrip("0").rstrip(".")}]
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    units = [
        (days, _("%(number)s d")),
        (hour, _("%(number)s h")),
        (minute, _("%(number)s min")),
        (second, _("%(number)s s")),
    ]
    while not units[0][0]:
        del units[0]
    return [text % {"number": number} for number, text in units[:2]]


def timeline(task: Task) -> list[Event]:
    """Return the events of a task, oldest first, the last one being what it does now."""
    events = [Event("past", _("Enqueued"), task.enqueued_at)]
    if task.started_at is not None:
        waited = duration((task.started_at - task.enqueued_at).total_seconds())
        note = _("after waiting for %(duration)s") % {"duration": waited}
        events.append(Event("past", _("Started"), task.started_at, note))
    if task.attempt and task.status not in {Status.DONE, Status.FAILED, Status.SKIPPED}:
        # When that was is known as long as nothing else has happened since.
        at = task.updated_at if task.status == Status.DELAYED else None
        title = _("Attempt %(number)d failed") % {"number": task.attempt}
        events.append(Event("past", title, at, task.error or ""))
    events.append(_present(task))
    return events


def _present(task: Task) -> Event:
    if task.status == Status.DELAYED:
        return _delayed(task)
    attempt = _("attempt %(number)d") % {"number": task.attempt + 1}
    if task.status == Status.ENQUEUED:
        title = _("Waiting for a worker, for %(duration)s") % {"duration": since(task.updated_at)}
        return Event("enqueued", title, None, attempt)
    if task.status == Status.RUNNING:
        title = _("Running, %(attempt)s") % {"attempt": attempt}
        return Event("running", title, None, _on(task))
    return _ended(task)


def _delayed(task: Task) -> Event:
    if task.attempt:
        attempt = _("retry %(number)d") % {"number": task.attempt}
    else:
        attempt = _("it was sent with a delay")
    due = task.next_attempt_at
    if due is None:
        return Event("delayed", _("Waiting until it is due"), None, attempt)
    left = (due - timezone.now()).total_seconds()
    if left > 0:
        return Event(
            "delayed", _("Due in %(duration)s") % {"duration": duration(left)}, due, attempt
        )
    title = _("Due since %(duration)s, waiting for a worker") % {"duration": duration(-left)}
    return Event("delayed", title, due, attempt)


def _ended(task: Task) -> Event:
    title = str(Status(task.status).label)
    note = ""
    if task.status == Status.FAILED and task.error == LOST:
        note = _("marked as lost by check_tasks: nothing was heard of it any more")
    elif task.status == Status.FAILED:
        note = _("%(error)s, at attempt %(number)d") % {
            "error": task.error or _("unknown error"),
            "number": task.attempt + 1,
        }
    elif task.status == Status.DONE:
        took = run_seconds(task, timezone.now())
        note = "" if took is None else _("after %(duration)s") % {"duration": duration(took)}
    return Event(task.status, title, task.finished_at, note)


def _on(task: Task) -> str:
    return _("on %(worker)s") % {"worker": task.worker} if task.worker else ""
