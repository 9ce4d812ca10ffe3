"""Tasks in Django's admin: a list that stays fast, a page for each, and two actions.

Django imports this if ``django.contrib.admin`` is installed.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import json
from typing import TYPE_CHECKING, Any, Sequence

from django.contrib import admin, messages
from django.contrib.admin import options
from django.contrib.auth import get_permission_codename, get_user_model
from django.db import router, transaction
from django.db.models import Prefetch, Q
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.text import format_lazy
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from taskstate.models import Task, TaskQuerySet
from taskstate.resending import BrokerUnavailableError, SendAgainError, send_again
from taskstate.times import local, run_seconds

from .changelist import SCAN_LIMIT, CappedPaginator, TaskChangeList, as_uuid
from .filters import ActorFilter, QueueFilter, UserFilter
from .timeline import duration, since, timeline

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Task]
else:  # It takes no parameter at run time.
    _ModelAdmin = admin.ModelAdmin

#: More words of a search are left out: each makes the query longer.
MAX_WORDS = 10

#: What stands where there is nothing.
_EMPTY = "-"


@admin.register(Task)
class TaskAdmin(_ModelAdmin):
    """Shows tasks; nobody adds or changes one."""

    list_display = (
        "name",
        "state_and_progress",
        "age",
        "run_time",
        "attempt_number",
        "owner",
        "queue_name",
    )
    list_filter = ("status", ActorFilter, QueueFilter, UserFilter)
    date_hierarchy = "enqueued_at"
    # The second one as well, so that pages don't overlap; it is what MariaDB's index ends with.
    ordering = ("-enqueued_at", "message_id")
    #: In no other order could a page be had without sorting all rows.
    sortable_by = ()
    search_fields = ("description", "actor_name")
    search_help_text = format_lazy(
        _(
            "An id, or words of the description and the actor. Words are looked for in the newest "
            "{limit} tasks; of the chosen user and date, if you choose these."
        ),
        limit=f"{SCAN_LIMIT:,}",
    )
    paginator = CappedPaginator
    show_full_result_count = False
    if hasattr(admin, "ShowFacets"):  # Django 5 and later; each facet counts the table.
        show_facets = admin.ShowFacets.NEVER
    actions = ("send_again",)

    class Media:
        css = {"all": ["taskstate/admin.css"]}

    # Who may do what.

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return that nobody may: rows are written by the middleware."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Task | None = None) -> bool:
        """Return that nobody may: the next state would be written over it."""
        return False

    def has_send_again_permission(self, request: HttpRequest) -> bool:
        """Return whether the user has Django's permission to change tasks: that is what sending
        one again comes nearest to."""
        codename = get_permission_codename("change", self.opts)
        return bool(request.user.has_perm(f"{self.opts.app_label}.{codename}"))

    # What is read.

    def get_queryset(self, request: HttpRequest) -> TaskQuerySet:
        """Return all tasks, with their users: by one more query, since these may be in another
        database, and gone."""
        users = get_user_model()._base_manager.using(router.db_for_read(get_user_model()))
        tasks: TaskQuerySet = super().get_queryset(request)  # type: ignore[assignment]
        return tasks.prefetch_related(Prefetch("user", queryset=users))

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[TaskChangeList]:
        """Return the list that bounds its questions."""
        return TaskChangeList

    def get_search_results(
        self, request: HttpRequest, queryset: Any, search_term: str
    ) -> tuple[Any, bool]:
        """Return the task with an id, or those with all words in description and actor."""
        message_id = as_uuid(search_term)
        if message_id is not None:
            return queryset.filter(pk=message_id), False
        for word in search_term.split()[:MAX_WORDS]:
            queryset = queryset.filter(
                Q(description__icontains=word) | Q(actor_name__icontains=word)
            )
        return queryset, False

    # The list's columns, some of which are on a task's page as well.

    @admin.display(description=_("task"))
    def name(self, task: Task) -> SafeString:
        """Return what it is, and why it failed."""
        title = format_html('<span class="taskstate-title">{}</span>', task.title)
        actor = format_html('<span class="taskstate-quiet">{}</span>', task.actor_name)
        error = format_html('<span class="taskstate-error">{}</span>', task.error or "")
        return format_html(
            "{}{}{}",
            title,
            actor if task.description else "",
            error if task.error else "",
        )

    @admin.display(description=_("status"))
    def state(self, task: Task) -> SafeString:
        """Return the status as a badge: colour and text."""
        return format_html(
            '<span class="taskstate-badge taskstate-{}">{}</span>',
            task.status,
            task.get_status_display(),
        )

    @admin.display(description=_("status"))
    def state_and_progress(self, task: Task) -> SafeString:
        """Return both, one above the other."""
        return format_html("{}{}", self.state(task), self.progress_bar(task))

    @admin.display(description=_("progress"))
    def progress_bar(self, task: Task) -> str:
        """Return a bar, the percentage, and what the actor says to it."""
        text = format_html('<span class="taskstate-quiet">{}</span>', task.progress_text or "")
        if task.progress is None:
            return text if task.progress_text else ""
        percent = gettext("%(percent)d%%") % {"percent": task.progress}
        return format_html(
            '<span class="taskstate-progress"><progress max="100" value="{}" aria-label="{}">'
            "</progress> <span>{}</span></span>{}",
            f"{task.progress:.2f}",
            gettext("Progress"),
            percent,
            text if task.progress_text else "",
        )

    @admin.display(description=_("user"))
    def owner(self, task: Task) -> str:
        """Return the user, with a link to the list of all their tasks."""
        if task.user_id is None:
            return _EMPTY
        # Here it is None if the user is gone.
        gone = gettext("%(key)s (deleted)") % {"key": task.user_id}
        return format_html(
            '<a href="{}?{}">{}</a>',
            reverse("admin:taskstate_task_changelist", current_app=self.admin_site.name),
            urlencode({"user": task.user_id}),
            gone if task.user is None else str(task.user),
        )

    @admin.display(description=_("enqueued"))
    def age(self, task: Task) -> SafeString:
        """Return how long ago it was enqueued."""
        text = gettext("%(duration)s ago") % {"duration": since(task.enqueued_at)}
        return _time(task.enqueued_at, text)

    @admin.display(description=_("duration"))
    def run_time(self, task: Task) -> str:
        """Return how long it took from its first start, or has taken until now."""
        seconds = run_seconds(task, timezone.now())
        return _EMPTY if seconds is None else duration(seconds)

    @admin.display(description=_("attempt"))
    def attempt_number(self, task: Task) -> int:
        """Return which attempt it is at, beginning with 1."""
        return task.attempt + 1

    # A task's page.

    def get_fieldsets(self, request: HttpRequest, obj: Task | None = None) -> Any:
        """Return what there is to tell of this task."""
        facts = ["description", "actor_name", "queue_name", "owner", "target", "attempt_number"]
        sections: list[tuple[Any, list[str]]] = [
            (None, ["state", "progress_bar", "events"]),
            (_("Failure"), ["error_text", "traceback_text"]),
            (_("Task"), [*facts, "run_time", "worker_text", "message_id"]),
            (_("Result"), ["result_text"]),
            (_("Metadata"), ["metadata_text"]),
            (_("Message"), ["message_text"]),
        ]
        sources = {
            "progress_bar": "progress",
            "error_text": "error",
            "traceback_text": "traceback",
            "result_text": "result",
            "metadata_text": "metadata",
            "message_text": "stored_message",
        }
        fieldsets = []
        for title, names in sections:
            kept = [
                name
                for name in names
                if name not in sources or getattr(obj, sources[name], None) is not None
            ]
            if kept:
                fieldsets.append((title, {"fields": kept}))
        return fieldsets

    @admin.display(description=_("timeline"))
    def events(self, task: Task) -> str:
        """Return its times, and what it waits for."""
        events = [(event, event.at and _time(event.at)) for event in timeline(task)]
        return render_to_string("admin/taskstate/task/timeline.html", {"events": events})

    @admin.display(description=_("object"))
    def target(self, task: Task) -> str:
        """Return which model it is about."""
        return ".".join(filter(None, [task.app_name, task.model_name])) or _EMPTY

    @admin.display(description=_("worker"))
    def worker_text(self, task: Task) -> str:
        """Return who runs it or ran it last."""
        return task.worker or _EMPTY

    @admin.display(description=_("error"))
    def error_text(self, task: Task) -> SafeString:
        """Return type and message of the last attempt's exception."""
        return format_html('<span class="taskstate-error">{}</span>', task.error)

    @admin.display(description=_("traceback"))
    def traceback_text(self, task: Task) -> SafeString:
        """Return the traceback of that exception."""
        return _box(gettext("Traceback"), task.traceback or "")

    @admin.display(description=_("result"))
    def result_text(self, task: Task) -> SafeString:
        """Return what the actor has set as its result."""
        return _box(gettext("Result"), _pretty(task.result))

    @admin.display(description=_("metadata"))
    def metadata_text(self, task: Task) -> SafeString:
        """Return what the sender has noted."""
        return _box(gettext("Metadata"), _pretty(task.metadata))

    @admin.display(description=_("stored message"))
    def message_text(self, task: Task) -> SafeString:
        """Return the message; as it is if it isn't JSON."""
        text: Any = task.stored_message or ""
        with contextlib.suppress(ValueError, RecursionError):
            text = _pretty(json.loads(text))
        return _box(gettext("Stored message"), text)

    # Actions.

    def response_action(
        self, request: HttpRequest, queryset: Any, *args: Any, **kwargs: Any
    ) -> HttpResponse | None:
        """Refuse what was selected across pages: all of it would be read at once."""
        if request.POST.get("select_across", "0") not in {"", "0"}:
            text = _(
                "Select tasks on one page at a time. To delete many, use manage.py clear_tasks."
            )
            self.message_user(request, text, messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())
        response: HttpResponse | None = super().response_action(request, queryset, *args, **kwargs)
        return response

    def delete_model(self, request: HttpRequest, obj: Task) -> None:
        """Delete it where it was read, whatever a router says."""
        obj.delete(using=obj._state.db)

    @admin.action(permissions=["send_again"], description=_("Send again"))
    def send_again(self, request: HttpRequest, queryset: TaskQuerySet) -> None:
        """Send the messages of the selected tasks again, oldest first, and tell how that went."""
        tasks = list(queryset.defer(None).order_by("enqueued_at", "message_id"))
        # Not in a transaction, which Django opens for a task's page and a site may open for all: on
        # SQLite the new tasks' rows would keep it from writing, after the messages have been sent.
        transaction.on_commit(
            lambda: self._send_again(request, tasks), using=router.db_for_write(self.model)
        )

    # From Django 6.1 on an action may stand on a task's own page as well.
    send_again.locations = list(getattr(options, "ActionLocation", ()))  # type: ignore[attr-defined]

    def _send_again(self, request: HttpRequest, tasks: Sequence[Task]) -> None:
        sent: list[str] = []
        reasons: collections.Counter[str] = collections.Counter()
        for number, task in enumerate(tasks):
            try:
                message = send_again(task)
            except BrokerUnavailableError as error:
                # The others would wait for the broker as long, one by one.
                reasons[str(error)] += len(tasks) - number
                break
            except SendAgainError as error:
                reasons[str(error)] += 1
            else:
                sent.append(message.message_id)
                text = gettext("Sent again as message %(id)s.") % {"id": message.message_id}
                self.log_change(request, task, text)
        self._tell(request, sent, reasons)

    def _tell(self, request: HttpRequest, sent: Sequence[str], reasons: dict[str, int]) -> None:
        if sent:
            text = ngettext(
                "%(count)d task was sent again.", "%(count)d tasks were sent again.", len(sent)
            )
            self.message_user(request, text % {"count": len(sent)}, messages.SUCCESS)
        for reason, count in reasons.items():
            text = ngettext(
                "%(count)d task was not sent again: %(reason)s",
                "%(count)d tasks were not sent again: %(reason)s",
                count,
            )
            text %= {"count": count, "reason": reason}
            self.message_user(request, text, messages.ERROR)


def _time(time: datetime.datetime, text: str = "") -> SafeString:
    """Return a time as HTML: itself, or as a tooltip of ``text``."""
    time = local(time)
    shown = f"{time:%Y-%m-%d %H:%M:%S}"
    return format_html(
        '<time datetime="{}" title="{}">{}</time>', time.isoformat(), shown, text or shown
    )


def _box(label: str, text: str) -> SafeString:
    """Return a text whose lines stay as they are; it can be scrolled, by the keyboard as well."""
    return format_html(
        '<pre class="taskstate-box" tabindex="0" role="region" aria-label="{}">{}</pre>',
        label,
        text,
    )


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
