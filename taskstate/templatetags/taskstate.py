"""``{% load taskstate %}``: a task that keeps itself up to date, on any page."""

from __future__ import annotations

from typing import Any

from django import template
from django.core.exceptions import ImproperlyConfigured
from django.template import Context
from django.templatetags.static import static
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html

from taskstate.models import Task
from taskstate.values import id_of
from taskstate.views.events import can_stream
from taskstate.views.feed import visible_to
from taskstate.views.shown import COLUMNS, shown, unknown

register = template.Library()


@register.simple_tag
def taskstate_assets() -> str:
    """Load the stylesheet and the script: once, in a page's head or body."""
    return format_html(
        '<link rel="stylesheet" href="{}"><script src="{}" defer></script>',
        static("taskstate/tasks.css"),
        static("taskstate/tasks.js"),
    )


@register.inclusion_tag("taskstate/task_progress.html", takes_context=True)
def task_progress(context: Context, task: object, title: str = "") -> dict[str, Any]:
    """Show one task, live.

    Parameters:
      task: A ``Task``, which is shown as it is; or a message or its id.  Of these the row is looked
        up (one query), if the user of the request may see it, and shown as enqueued if there is
        none yet.
      title(str): What to call it as long as there is no row.

    Raises:
      ValueError: If ``task`` is none of these.
    """
    if not isinstance(task, Task):
        key = id_of(task)
        user = getattr(_request(context), "user", None)
        visible = visible_to(user).filter(pk=key).only(*COLUMNS)
        row = visible.first() if user is not None else None
        return {**taskstate_urls(context), "task": shown(row) if row else unknown(key, title)}
    return {**taskstate_urls(context), "task": shown(task)}


@register.simple_tag(takes_context=True)
def taskstate_urls(context: Context) -> dict[str, str]:
    """Return where the script asks: ``json_url``, and ``events_url`` if events can be had.

    Raises:
      ImproperlyConfigured: If ``taskstate.urls`` is not part of the project's.
    """
    try:
        urls = {"json_url": reverse("taskstate:tasks-json"), "events_url": ""}
        if can_stream(_request(context)):
            urls["events_url"] = reverse("taskstate:tasks-events")
    except NoReverseMatch as error:
        raise ImproperlyConfigured(
            "The tags of taskstate need its URLs: add "
            "path('tasks/', include('taskstate.urls')) to the project's urlpatterns."
        ) from error
    return urls


def _request(context: Context) -> object:
    """Return the request that a template is rendered for, with any context processors; or None."""
    return getattr(context, "request", None)
