"""Pieces of HTML that several columns and fields of the admin are made of."""

from __future__ import annotations

import datetime
import json

from django.utils.html import format_html
from django.utils.safestring import SafeString

from taskstate.models import Task
from taskstate.utils.durations import local

#: What a column or a field shows if it has no value.
EMPTY = "-"


def error_text(text: str) -> SafeString:
    """Return the text of an error, in the color of errors."""
    return format_html('<span class="taskstate-error"><bdi>{}</bdi></span>', text)


def quiet_text(text: str) -> SafeString:
    """Return a text of less importance, in a quieter color."""
    return format_html('<span class="taskstate-quiet"><bdi>{}</bdi></span>', text)


def status_badge(task: Task) -> SafeString:
    """Return the status of a task as a badge: its color, and its name."""
    return format_html(
        '<span class="taskstate-badge taskstate-{}">{}</span>',
        task.status,
        task.get_status_display(),
    )


def time_element(time: datetime.datetime, text: str = "") -> SafeString:
    """Return a time as HTML.  With a ``text``, the page shows that, and the time as its tooltip."""
    time = local(time)
    exact = f"{time:%Y-%m-%d %H:%M:%S}"
    return format_html(
        '<time datetime="{}" title="{}" dir="auto">{}</time>',
        time.isoformat(),
        exact,
        text or exact,
    )


def scrolling_box(label: str, text: str) -> SafeString:
    """Return a text with its line breaks, in a box that scrolls, also by the keyboard.

    Parameters:
      label(str): The name of the box for screen readers.
      text(str): Its content.
    """
    return format_html(
        '<pre class="taskstate-box" dir="ltr" tabindex="0" role="region" aria-label="{}">{}</pre>',
        label,
        text,
    )


def pretty_json(value: object) -> str:
    """Return a value as indented JSON.

    A lone surrogate is escaped, since no page can hold it.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
