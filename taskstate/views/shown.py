"""What a person sees of a task: its fields as JSON, and a line of text in their language."""

from __future__ import annotations

import datetime
from typing import Any
from uuid import UUID

from django.utils import formats, timezone
from django.utils.translation import gettext as _

from ..models import Status, Task
from ..times import local
from ..transitions import FINISHED, LOST

#: The columns that are read for it.  Tracebacks, workers, messages and metadata stay where they
#: are: they are for those who run the site.
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
    "progress",
    "progress_text",
)


def shown(task: Task, *, with_result: bool = False) -> dict[str, Any]:
    """Return what is shown of a task, ready for JSON.

    Parameters:
      task(Task): At least with the columns of ``COLUMNS``.
      with_result(bool): Add ``result``, which may be long.

    Returns:
      dict: Times are texts in ISO 8601, in UTC.  ``title``, ``status_label``, ``percent``,
      ``note`` and ``enqueued_label`` are texts for people.
    """
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
        "percent": "" if task.progress is None else _percent(task.progress),
        "error": task.error,
        "note": _note(task),
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


def unknown(message_id: UUID | str, title: str = "") -> dict[str, Any]:
    """Return what is shown of a message of which there is no row yet."""
    return {
        "id": str(message_id),
        "status": Status.ENQUEUED.value,
        "status_label": str(Status.ENQUEUED.label),
        "is_finished": False,
        "title": title or _("Task"),
    }


def _note(task: Task) -> str:
    """Return a line that says more than the status does, or an empty one."""
    error = _("Nothing was heard of it for too long") if task.error == LOST else task.error or ""
    if task.status == Status.FAILED:
        return error
    if task.status == Status.SKIPPED:
        return ""
    parts = []
    if task.status == Status.DELAYED and task.next_attempt_at is not None:
        due = {"number": task.attempt + 1, "time": _label(task.next_attempt_at, seconds=True)}
        text = _("Attempt %(number)s at %(time)s") if task.attempt else _("Starts at %(time)s")
        parts.append(text % due)
    elif task.attempt and task.status != Status.DONE:
        parts.append(_("Attempt %(number)s") % {"number": task.attempt + 1})
    if task.status in {Status.RUNNING, Status.DONE}:
        parts.append(task.progress_text or "")
    else:
        parts.append(error)
    return " · ".join(part for part in parts if part)


def _percent(progress: float) -> str:
    # Down, so that only what is complete says so.
    return _("%(number)s %%") % {"number": int(progress)}


def _aware(time: datetime.datetime) -> datetime.datetime:
    """Return a time as the database gives it with its zone, whatever ``USE_TZ`` is."""
    if timezone.is_aware(time):
        return time
    zone: Any = timezone.get_default_timezone()
    # Django 3.2's zones come from pytz, which wants to attach them itself.
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
    """Return a time as the site writes it, with the date unless it is near and exact."""
    here = local(time)
    if seconds and here.date() == local(timezone.now()).date():
        return formats.time_format(here, "H:i:s")
    return formats.date_format(here, "SHORT_DATETIME_FORMAT")
