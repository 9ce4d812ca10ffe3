"""A task as JSON: its fields, and texts for people in the language of the request."""

from __future__ import annotations

import datetime
from typing import Any
from uuid import UUID

from django.utils import formats, timezone
from django.utils.translation import gettext as _

from taskstate.models import Status, Task
from taskstate.transitions.status import FINISHED, LOST_ERROR
from taskstate.utils.durations import local
from taskstate.utils.percentages import format_percent
from taskstate.visibility import Viewer

#: The columns that ``serialize_task`` needs.  Tracebacks, workers, stored messages and metadata are
#: not among them: only the admin shows these.
COLUMNS = (
    "message_id",
    "status",
    "attempt",
    "actor_name",
    "description",
    "enqueued_at",
    "started_at",
    "finished_at",
    "updated_at",
    "next_attempt_at",
    "error",
    "user_error",
    "progress",
    "progress_text",
)


def serialize_task(task: Task, viewer: Viewer, *, with_result: bool = False) -> dict[str, Any]:
    """Return a task as a dictionary for JSON.

    Parameters:
      task(Task): The task, loaded with at least ``COLUMNS``.
      viewer(Viewer): The user who reads it; only staff read the texts of exceptions.
      with_result(bool): Whether to add ``result``, which may be long.

    Returns:
      dict: The times are in ISO 8601 and UTC.  ``title``, ``status_label``, ``percent``, ``note``
      and ``enqueued_label`` are texts for people.
    """
    error = viewer.error_of(task)
    fields: dict[str, Any] = {
        "id": str(task.message_id),
        "status": task.status,
        "status_label": str(task.get_status_display()),
        "is_finished": task.status in FINISHED,
        "title": task.title,
        "description": task.description,
        "actor": task.actor_name,
        "attempt": task.attempt,
        "progress": task.progress,
        "progress_text": task.progress_text or "",
        "percent": "" if task.progress is None else format_percent(task.progress),
        "error": error,
        "note": _note(task, error or ""),
        "enqueued_at": _iso(task.enqueued_at),
        "enqueued_label": _label(task.enqueued_at),
        "started_at": _iso(task.started_at),
        "finished_at": _iso(task.finished_at),
        "updated_at": _iso(task.updated_at),
        "next_attempt_at": _iso(task.next_attempt_at),
    }
    if with_result:
        fields["result"] = task.result
    return fields


def serialize_missing_task(message_id: UUID | str, title: str = "") -> dict[str, Any]:
    """Return the dictionary for a message that has no row yet: an enqueued task."""
    return {
        "id": str(message_id),
        "status": Status.ENQUEUED.value,
        "status_label": str(Status.ENQUEUED.label),
        "is_finished": False,
        "title": title or _("Task"),
    }


def _note(task: Task, error: str) -> str:
    """Return a line of details for the status, which may be empty."""
    if error == LOST_ERROR:
        error = _("No update for too long")
    if task.status == Status.FAILED:
        return error
    if task.status == Status.SKIPPED:
        return ""
    parts = []
    is_retry = task.attempt > 1
    if task.status == Status.DELAYED and task.next_attempt_at is not None:
        due = {"number": task.attempt, "time": _label(task.next_attempt_at, seconds=True)}
        text = _("Attempt %(number)s at %(time)s") if is_retry else _("Starts at %(time)s")
        parts.append(text % due)
    elif is_retry and task.status != Status.DONE:
        parts.append(_("Attempt %(number)s") % {"number": task.attempt})
    if task.status in {Status.RUNNING, Status.DONE}:
        parts.append(task.progress_text or "")
    else:
        parts.append(error)
    return " · ".join(part for part in parts if part)


def _aware(time: datetime.datetime) -> datetime.datetime:
    """Return a time of the database with its time zone, also if ``USE_TZ`` is False."""
    if timezone.is_aware(time):
        return time
    zone: Any = timezone.get_default_timezone()
    # With Django 3.2 it is a zone of pytz, which only its own localize attaches correctly.
    if hasattr(zone, "localize"):
        localized: datetime.datetime = zone.localize(time, is_dst=False)
        return localized
    return time.replace(tzinfo=zone)


def _iso(time: datetime.datetime | None) -> str | None:
    if time is None:
        return None
    utc = _aware(time).astimezone(datetime.timezone.utc)
    return utc.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def _label(time: datetime.datetime, *, seconds: bool = False) -> str:
    """Return a time in the format of the language.

    With ``seconds``, a time of today has seconds and no date.
    """
    local_time = local(time)
    if seconds and local_time.date() == local(timezone.now()).date():
        return formats.time_format(local_time, "H:i:s")
    return formats.date_format(local_time, "SHORT_DATETIME_FORMAT")
