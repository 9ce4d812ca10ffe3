"""The action "Send again": asks for a confirmation where that is needed, sends, and reports."""

from __future__ import annotations

import contextlib
import logging
from typing import Any, Container, Iterable, Iterator, NamedTuple, Sequence
from uuid import UUID

import django
from django.contrib import messages
from django.contrib.admin import ModelAdmin, helpers
from django.db import Error, router, transaction
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from taskstate.admin.resend_report import ResendReport
from taskstate.models import Status, Task
from taskstate.resending import BrokerUnavailableError, ResendError, resend
from taskstate.stores.errors import summarize
from taskstate.transitions.status import ACTIVE
from taskstate.writer.lifecycle import flush

logger = logging.getLogger(__name__)

#: The name of the hidden fields that hold what the user has confirmed.
CONFIRMED_FIELD = "confirmed"

#: How long to wait for the rows of the new tasks: the report links to their pages.
FLUSH_SECONDS = 2.0

#: The field that names the action on a task's own page, from Django 6.1.
_PAGE_ACTION_FIELD = "CHANGE_FORM-action"

#: Whether Django's stylesheet expects the breadcrumbs as a list.
_BREADCRUMBS_ARE_LIST = django.VERSION >= (6, 1)


class ResendGroup(NamedTuple):
    """Tasks for which sending again has the same effect."""

    key: str
    statuses: Container[str]
    title: Any
    #: The effect, as the confirmation page describes it.
    effect: Any
    needs_confirmation: bool
    tasks: Sequence[Task] = ()


#: In the order of the confirmation page.
GROUPS = (
    ResendGroup(
        key="active",
        statuses=ACTIVE,
        title=_("Not finished"),
        effect=_("Each task would run twice, perhaps at the same time."),
        needs_confirmation=True,
    ),
    ResendGroup(
        key="done",
        statuses={Status.DONE},
        title=_("Done"),
        effect=_("Each task would do its work a second time."),
        needs_confirmation=True,
    ),
    ResendGroup(
        key="unsuccessful",
        statuses={Status.FAILED, Status.SKIPPED},
        title=_("Failed or skipped"),
        effect=_("Each task would be tried again."),
        needs_confirmation=False,
    ),
)


def group_tasks(tasks: Sequence[Task]) -> list[ResendGroup]:
    """Return tasks grouped by the effect of sending them again, without empty groups."""
    groups = [
        group._replace(tasks=[task for task in tasks if task.status in group.statuses])
        for group in GROUPS
    ]
    return [group for group in groups if group.tasks]


def confirmation_keys(groups: Iterable[ResendGroup]) -> list[str]:
    """Return what the user has to confirm: for each task its group and its id.

    If a task has moved to another group since the user confirmed it, its key is another one, and
    the user is asked again.
    """
    return [
        f"{group.key}:{task.message_id}"
        for group in groups
        if group.needs_confirmation
        for task in group.tasks
    ]


class ResendAction:
    """One run of the action.

    Parameters:
      model_admin(ModelAdmin): The admin of tasks.
      request(HttpRequest): The request that chose or confirmed it.
    """

    def __init__(self, model_admin: ModelAdmin[Task], request: HttpRequest) -> None:
        self._admin = model_admin
        self._request = request

    def run(self, ids: set[UUID]) -> HttpResponse | None:
        """Send the messages of tasks again, oldest first, and report the outcome.

        Tasks that are active or done are sent only after the user has confirmed it.  What counts is
        their present status: a task that was selected as failed may be running again.

        Returns:
          HttpResponse: The confirmation page, or None if no confirmation is missing.
        """
        selected = self._admin.get_queryset(self._request).filter(pk__in=ids)
        selected = selected.prefetch_related(None).defer(None)
        tasks = list(selected.order_by("enqueued_at", "message_id"))
        groups = group_tasks(tasks)
        confirmed = self._request.POST.getlist(CONFIRMED_FIELD)
        if not set(confirmation_keys(groups)).issubset(confirmed):
            return self._confirmation_page(groups)
        report = ResendReport()
        report.add_missing(sorted(ids - {task.message_id for task in tasks}))
        # Not inside a transaction, which Django opens for a task's page, and a site may open for
        # every request: on SQLite, the rows of the new tasks would lock this transaction out after
        # the messages have been sent.
        transaction.on_commit(
            lambda: self._send(tasks, report), using=router.db_for_write(self._admin.model)
        )
        return None

    def _confirmation_page(self, groups: Sequence[ResendGroup]) -> HttpResponse:
        """Return a page like the one with which Django confirms a deletion."""
        request, model_admin = self._request, self._admin
        context = {
            **model_admin.admin_site.each_context(request),
            "title": gettext("Send tasks again"),
            "subtitle": None,
            "opts": model_admin.opts,
            "media": model_admin.media,
            "groups": groups,
            "confirmation_keys": confirmation_keys(groups),
            "confirmed_field": CONFIRMED_FIELD,
            "action_checkbox_name": helpers.ACTION_CHECKBOX_NAME,
            # The list and a task's page name their action in different fields.  The form is sent
            # to the page that it came from.
            "action_field": _PAGE_ACTION_FIELD if _PAGE_ACTION_FIELD in request.POST else "action",
            "back_url": request.get_full_path(),
            "breadcrumbs_are_list": _BREADCRUMBS_ARE_LIST,
        }
        request.current_app = model_admin.admin_site.name
        return TemplateResponse(request, "admin/taskstate/task/resend_confirmation.html", context)

    def _send(self, tasks: Sequence[Task], report: ResendReport) -> None:
        for number, task in enumerate(tasks):
            try:
                message = resend(task)
            except BrokerUnavailableError as error:
                # Each of the others would wait just as long for the broker.
                report.add_not_sent(tasks[number:], str(error))
                break
            except ResendError as error:
                report.add_not_sent([task], str(error))
            else:
                report.add_sent(task, UUID(message.message_id))
                text = gettext("Sent again as message %(id)s.") % {"id": message.message_id}
                with _log_database_error():
                    self._admin.log_change(self._request, task, text)
        self._show(report)

    def _show(self, report: ResendReport) -> None:
        """Show the report on the next page of the admin."""
        if report.new_ids:
            flush(FLUSH_SECONDS)
        urls: dict[UUID, str] = {}
        with _log_database_error():
            rows = self._admin.get_queryset(self._request).filter(pk__in=report.new_ids)
            urls.update((pk, self._url_of(pk)) for pk in rows.values_list("pk", flat=True))
        success = report.success_text(urls)
        if success is not None:
            self._admin.message_user(self._request, success, messages.SUCCESS)
        for text in report.failure_texts():
            self._admin.message_user(self._request, text, messages.ERROR)

    def _url_of(self, message_id: UUID) -> str:
        site = self._admin.admin_site.name
        return reverse("admin:taskstate_task_change", args=[message_id], current_app=site)


@contextlib.contextmanager
def _log_database_error() -> Iterator[None]:
    """Log a database error and go on.

    The messages are sent by then: without a report, the user would send the tasks once more.
    """
    try:
        yield
    except Error as error:
        # No traceback: it would quote values.
        logger.error(  # noqa: TRY400
            "The database failed after tasks were sent again: %s. The tasks were sent; their entry "
            "in the admin's history or the link to the new task is missing.",
            summarize(error),
        )
