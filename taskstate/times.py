"""Ages, and times as a site reads them."""

from __future__ import annotations

import datetime
import re
from typing import TYPE_CHECKING

from django.utils import timezone

if TYPE_CHECKING:  # Models can't be imported before the apps are ready.
    from .models import Task

#: Older than any task; from far more, the calendar has no day left to subtract.
LONGEST_AGE = datetime.timedelta(days=36_500)

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_age(name: str, text: object) -> datetime.timedelta:
    """Return the age that a text tells: ``90s``, ``15m``, ``6h`` or ``30d``.

    Raises:
      ValueError: If it tells none; the message calls it by its name, and says what would.
    """
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", str(text))
    if match is None:
        raise ValueError(
            f"{name} is {text!r}, which is no age. Give a whole number and a unit: 90s, 15m, 6h "
            "or 30d."
        )
    age = datetime.timedelta(**{_UNITS[match[2]]: int(match[1])})
    if age > LONGEST_AGE:
        raise ValueError(f"{name} is {text!r}, which is more than a hundred years.")
    return age


def local(time: datetime.datetime) -> datetime.datetime:
    """Return a time in the zone of the site, or of its user; a naive one is in it already."""
    return timezone.localtime(time) if timezone.is_aware(time) else time


def run_seconds(task: Task, now: datetime.datetime) -> float | None:
    """Return how long a task took from its first start to its end, or has taken until now; None if
    it hasn't begun."""
    if task.started_at is None:
        return None
    return ((task.finished_at or now) - task.started_at).total_seconds()
