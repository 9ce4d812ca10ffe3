"""The fields of a task's page, and the sections that they are grouped into."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from taskstate.admin.html import EMPTY, error_text, pretty_json, scrolling_box, time_element
from taskstate.admin.timeline import timeline
from taskstate.models import Task
from taskstate.transitions.sanitize import JSON_DEPTH, nests_at_most

#: The sections of the page.
SECTIONS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (None, ("state", "progress_bar", "events")),
    (_("Failure"), ("error_text", "user_error_text", "traceback_text")),
    (
        _("Task"),
        (
            "description",
            "actor_name",
            "queue_name",
            "owner",
            "target",
            "attempt",
            "run_time",
            "worker_text",
            "message_id",
        ),
    ),
    (_("Result"), ("result_text",)),
    (_("Metadata"), ("metadata_text",)),
    (_("Message"), ("message_text",)),
)

#: The fields that are left out if the model's field is empty.
OPTIONAL_FIELDS = {
    "progress_bar": "progress",
    "error_text": "error",
    "user_error_text": "user_error",
    "traceback_text": "traceback",
    "result_text": "result",
    "metadata_text": "metadata",
    "message_text": "stored_message",
}


class TaskFields:
    """The fields, as methods: a site's subclass of ``TaskAdmin`` can name and override them."""

    def get_fieldsets(self, request: HttpRequest, obj: Task | None = None) -> Any:
        """Return the sections, without empty fields and without empty sections."""
        fieldsets = []
        for title, names in SECTIONS:
            kept = [
                name
                for name in names
                if name not in OPTIONAL_FIELDS
                or getattr(obj, OPTIONAL_FIELDS[name], None) is not None
            ]
            if kept:
                fieldsets.append((title, {"fields": kept}))
        return fieldsets

    @admin.display(description=_("timeline"))
    def events(self, task: Task) -> str:
        """Return what happened to a task and when, and what it waits for."""
        events = [(event, event.at and time_element(event.at)) for event in timeline(task)]
        return render_to_string("admin/taskstate/task/timeline.html", {"events": events})

    @admin.display(description=_("object"))
    def target(self, task: Task) -> str:
        """Return the model that a task is about."""
        return ".".join(filter(None, [task.app_name, task.model_name])) or EMPTY

    @admin.display(description=_("worker"))
    def worker_text(self, task: Task) -> str:
        """Return the worker that runs a task, or ran it last."""
        return task.worker or EMPTY

    @admin.display(description=_("error"))
    def error_text(self, task: Task) -> SafeString:
        """Return the type and the message of the exception that ended the last attempt."""
        return error_text(task.error or "")

    @admin.display(description=_("text for the user"))
    def user_error_text(self, task: Task) -> SafeString:
        """Return the text that the user of the task reads about this exception."""
        return format_html("<bdi>{}</bdi>", task.user_error)

    @admin.display(description=_("traceback"))
    def traceback_text(self, task: Task) -> SafeString:
        """Return the traceback of this exception."""
        return scrolling_box(gettext("Traceback"), task.traceback or "")

    @admin.display(description=_("result"))
    def result_text(self, task: Task) -> SafeString:
        """Return the result that the actor set."""
        return scrolling_box(gettext("Result"), pretty_json(task.result))

    @admin.display(description=_("metadata"))
    def metadata_text(self, task: Task) -> SafeString:
        """Return the metadata that the sender passed."""
        return scrolling_box(gettext("Metadata"), pretty_json(task.metadata))

    @admin.display(description=_("stored message"))
    def message_text(self, task: Task) -> SafeString:
        """Return the stored message as indented JSON.

        A message that is not JSON, or is so deeply nested that its indentation would fill the
        page, is shown as it is.
        """
        text: Any = task.stored_message or ""
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(text)
            if nests_at_most(value, JSON_DEPTH):
                text = pretty_json(value)
        return scrolling_box(gettext("Stored message"), text)
