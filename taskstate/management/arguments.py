"""Arguments that commands share."""

from __future__ import annotations

import datetime
import re

from django.core.management.base import CommandError

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_age(option: str, text: str) -> datetime.timedelta:
    """Return the age that an option names: ``90s``, ``15m``, ``6h`` or ``30d``.

    Raises:
      CommandError: If it names none; the message says what would.
    """
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", str(text))
    if match is None:
        raise CommandError(
            f"{option} is {text!r}, which is no age. Give a whole number and a unit: 90s, 15m, 6h "
            "or 30d."
        )
    return datetime.timedelta(**{_UNITS[match[2]]: int(match[1])})
