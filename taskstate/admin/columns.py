"""The columns of the task list, some of which a task's own page shows as well."""

from __future__ import annotations

from django.contrib import admin
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from taskstate.admin.html import EMPTY, error_text, quiet_text, status_badge, time_element
from taskstate.models import Task
from taskstate.utils.durations import elapsed_seconds, format_duration
from taskstate.utils.percentages import format_percent


class TaskColumns:
    """The columns, as methods: a site's subclass of ``TaskAdmin`` can name and override them."""

    admin_site: admin.AdminSite

    @admin.display(description=_("task"))
    def name(self, task: Task) -> SafeString:
        """Return the title of a task, the name of its actor, and its error."""
        title = format_html('<span class="taskstate-title"><bdi>{}</bdi></span>', task.title)
        return format_html(
            "{}{}{}",
            title,
            quiet_text(task.actor_name) if task.description else "",
            error_text(task.error) if task.error else "",
        )

    @admin.display(description=_("status"))
    def state(self, task: Task) -> SafeString:
        """Return the status of a task as a badge."""
        return status_badge(task)

    @admin.display(description=_("status"))
    def state_and_progress(self, task: Task) -> SafeString:
        """Return the status, with the progress below it."""
        return format_html("{}{}", self.state(task), self.progress_bar(task))

    @admin.display(description=_("progress"))
    def progress_bar(self, task: Task) -> str:
        """Return a progress bar, the percentage, and the progress text of the actor."""
        text = quiet_text(task.progress_text) if task.progress_text else ""
        if task.progress is None:
            return text
        return format_html(
            '<span class="taskstate-progress"><progress max="100" value="{}" aria-label="{}">'
            "</progress> <span>{}</span></span>{}",
            f"{task.progress:.2f}",
            gettext("Progress of %(task)s") % {"task": task.title},
            format_percent(task.progress),
            text,
        )

    @admin.display(description=_("user"))
    def owner(self, task: Task) -> str:
        """Return the user of a task, with a link to the list of all their tasks."""
        if task.user_id is None:
            return EMPTY
        # The key stays in the task after the user was deleted.
        deleted = gettext("%(key)s (deleted)") % {"key": task.user_id}
        return format_html(
            '<a href="{}?{}"><bdi>{}</bdi></a>',
            reverse("admin:taskstate_task_changelist", current_app=self.admin_site.name),
            urlencode({"user": task.user_id}),
            deleted if task.user is None else str(task.user),
        )

    @admin.display(description=_("enqueued"))
    def age(self, task: Task) -> SafeString:
        """Return how long ago a task was enqueued."""
        seconds = (timezone.now() - task.enqueued_at).total_seconds()
        text = gettext("%(duration)s ago") % {"duration": format_duration(seconds, units=1)}
        return time_element(task.enqueued_at, text)

    @admin.display(description=_("duration"))
    def run_time(self, task: Task) -> str:
        """Return the time from the first start of a task to its end, or until now."""
        seconds = elapsed_seconds(task.started_at, task.finished_at, timezone.now())
        return EMPTY if seconds is None else format_html("<bdi>{}</bdi>", format_duration(seconds))
