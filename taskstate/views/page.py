"""The page of the signed-in user's tasks."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.decorators import user_passes_test
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from taskstate.views.decorators import never_stored
from taskstate.views.queries import read_cursor
from taskstate.views.serializers import COLUMNS, serialize_task
from taskstate.visibility import TaskAccess

PAGE_SIZE = 25
#: The last page that can be asked for.  The database has to skip the tasks of all pages before it.
LAST_PAGE = 400


@never_stored
@user_passes_test(lambda user: user.is_authenticated and user.is_active)
@require_safe
def tasks(request: HttpRequest) -> HttpResponse:
    """Show the user's own tasks, newest first.  ``?page=2`` shows older ones.

    The tasks are not counted: a page reads one more task than it shows, to find out whether there
    is a next page.
    """
    number = _parse_page_number(request.GET.get("page", "1"))
    if number is None:
        text = _("Page not found. Use a number from 1 to %(last)s.") % {"last": LAST_PAGE}
        return HttpResponseBadRequest(text, content_type="text/plain; charset=utf-8")
    # Before the rows: what is written in between belongs to the first update.
    cursor = read_cursor()
    access = TaskAccess(request)
    start = (number - 1) * PAGE_SIZE
    rows = access.own_tasks.only(*COLUMNS)[start : start + PAGE_SIZE + 1]
    found = [serialize_task(task, access.viewer) for task in rows]
    has_next = len(found) > PAGE_SIZE and number < LAST_PAGE
    context: dict[str, Any] = {
        "tasks": found[:PAGE_SIZE],
        "page_size": PAGE_SIZE,
        # New tasks appear on the first page only.
        "cursor": cursor if number == 1 else None,
        "previous_page": number - 1 if number > 1 else None,
        "next_page": number + 1 if has_next else None,
    }
    return render(request, "taskstate/tasks.html", context)


def _parse_page_number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(LAST_PAGE))):
        return None
    return int(text) if 1 <= int(text) <= LAST_PAGE else None
