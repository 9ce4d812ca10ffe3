"""``{% load taskstate %}``: tags that show a live task on any page."""

from __future__ import annotations

from typing import Any

from django import template
from django.core.exceptions import ImproperlyConfigured
from django.template import Context
from django.templatetags.static import static
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.translation import get_language, gettext

from taskstate.models import Task
from taskstate.transitions.sanitize import to_uuid
from taskstate.views.events import can_stream
from taskstate.views.serializers import COLUMNS, serialize_missing_task, serialize_task
from taskstate.visibility import TaskAccess

register = template.Library()

#: A text that only this package has.  If it is translated, the site has translated the package.
_SAMPLE_TEXT = "Your tasks"


@register.simple_tag
def taskstate_assets() -> str:
    """Return the tags for the stylesheet and the script.  A page needs them once, in its head or
    body."""
    return format_html(
        '<link rel="stylesheet" href="{}"><script src="{}" defer></script>',
        static("taskstate/tasks.css"),
        static("taskstate/tasks.js"),
    )


@register.inclusion_tag("taskstate/task_progress.html", takes_context=True)
def task_progress(context: Context, task: object, title: str = "") -> dict[str, Any]:
    """Show one task that keeps itself up to date.

    Parameters:
      task: A ``Task``, which is shown as it is; or a message or its id.  For these, one query looks
        for the row among the tasks that the request may see.  A task without a row is shown as
        enqueued.
      title(str): The title of a task without a row.

    Raises:
      ValueError: If ``task`` is none of these.
    """
    access = TaskAccess(_request(context))
    key = task.pk if isinstance(task, Task) else to_uuid(task)
    row = task if isinstance(task, Task) else access.tasks.filter(pk=key).only(*COLUMNS).first()
    if row is None:
        fields = serialize_missing_task(key, title)
    else:
        fields = serialize_task(row, access.viewer)
    return {**_urls(context, access), "task": fields}


@register.simple_tag
def taskstate_lang() -> str:
    """Return the attribute ``lang="en"``, with a space before it, for texts of this package on a
    page in another language.

    It is empty if the page is in English, or the site has translated the texts.
    """
    is_english = (get_language() or "en").split("-")[0] == "en"
    is_translated = gettext(_SAMPLE_TEXT) != _SAMPLE_TEXT
    return "" if is_english or is_translated else format_html(' lang="{}"', "en")


@register.simple_tag(takes_context=True)
def taskstate_urls(context: Context) -> dict[str, str]:
    """Return what the script needs: ``json_url``, ``events_url`` if there can be events, and
    ``viewer``, the mark of the user whom the page is for.

    Raises:
      ImproperlyConfigured: If the project does not include ``taskstate.urls``.
    """
    return _urls(context, TaskAccess(_request(context)))


def _urls(context: Context, access: TaskAccess) -> dict[str, str]:
    try:
        urls = {
            "json_url": reverse("taskstate:tasks-json"),
            "events_url": "",
            "viewer": access.viewer.mark,
        }
        if can_stream(_request(context)):
            urls["events_url"] = reverse("taskstate:tasks-events")
    except NoReverseMatch as error:
        raise ImproperlyConfigured(
            "The template tags of taskstate need its URLs. Add "
            "path('tasks/', include('taskstate.urls')) to the urlpatterns of the project."
        ) from error
    return urls


def _request(context: Context) -> Any:
    """Return the request that the template is rendered for, or None.  It needs no context
    processor."""
    return getattr(context, "request", None)
