"""Percentages, shown to people."""

from __future__ import annotations

from django.utils.translation import gettext as _


def format_percent(percent: float) -> str:
    """Return a percentage as text: ``"41 %"``.

    It is rounded down, so that only what is complete is shown as 100 %.
    """
    return _("%(number)s %%") % {"number": int(percent)}
