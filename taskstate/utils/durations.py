"""Ages and durations: read from text, measured, and shown to people."""

from __future__ import annotations

import datetime
import re

from django.utils import timezone
from django.utils.translation import gettext as _

#: Older than any task.  A far greater age can't be subtracted from today: no calendar has the day.
LONGEST_AGE = datetime.timedelta(days=36_500)

#: Durations below this many seconds are shown with fractions of a second.
_SHORT = 10

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_age(name: str, text: object) -> datetime.timedelta:
    """Return the age that a text such as ``90s``, ``15m``, ``6h`` or ``30d`` stands for.

    Parameters:
      name(str): The option or argument that holds the text, for the error.
      text: A whole number and a unit.

    Raises:
      ValueError: If the text is not a valid age.
    """
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", str(text))
    if match is None:
        raise ValueError(f"{name}: {text!r} is not a valid age; use 90s, 15m, 6h or 30d.")
    age = datetime.timedelta(**{_UNITS[match[2]]: int(match[1])})
    if age > LONGEST_AGE:
        raise ValueError(
            f"{name}: {text!r} is more than a hundred years; use a shorter age, such as 30d."
        )
    return age


def local(time: datetime.datetime) -> datetime.datetime:
    """Return a time in the current time zone.  A naive time is returned as it is."""
    return timezone.localtime(time) if timezone.is_aware(time) else time


def elapsed_seconds(
    start: datetime.datetime | None, end: datetime.datetime | None, now: datetime.datetime
) -> float | None:
    """Return the seconds from ``start`` to ``end``, or to ``now`` if there is no end yet.

    Returns:
      float: None if there is no start yet.
    """
    return None if start is None else ((end or now) - start).total_seconds()


def format_duration(seconds: float, units: int = 2) -> str:
    """Return a duration as text, in its greatest units: ``"1 h 2 min"``, ``"59 s"``, ``"0.05 s"``.

    It is rounded down, but for fractions of a second.  A negative duration, which two hosts with
    different clocks can produce, is shown as 0.

    Parameters:
      seconds(float): The duration.
      units(int): How many units to show at most.
    """
    if seconds < _SHORT:
        number = f"{max(seconds, 0.0):.2f}".rstrip("0").rstrip(".")
        return _("%(number)s s") % {"number": number}
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    parts = [
        (days, _("%(number)s d")),
        (hour, _("%(number)s h")),
        (minute, _("%(number)s min")),
        (second, _("%(number)s s")),
    ]
    while not parts[0][0]:
        del parts[0]
    return " ".join(text % {"number": number} for number, text in parts[:units])
