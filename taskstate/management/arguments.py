"""Arguments that commands share."""

from __future__ import annotations

import datetime

from django.core.management.base import CommandError

from taskstate.utils import durations


def parse_age(option: str, text: str) -> datetime.timedelta:
    """Return the age that an option names: ``90s``, ``15m``, ``6h`` or ``30d``.

    Raises:
      CommandError: If the text is not a valid age.
    """
    try:
        return durations.parse_age(option, text)
    except ValueError as error:
        raise CommandError(str(error)) from error
