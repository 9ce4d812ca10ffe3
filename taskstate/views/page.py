"""The page of the signed-in user's tasks."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from ..models import Task
from .answers import never_stored
from .feed import read_cursor
from .shown import COLUMNS, shown

PAGE_SIZE = 25
#: The database has to pass over all tasks of the pages before: nobody leafs any further.
LAST_PAGE = 400


@never_stored
@login_required
@require_safe
def tasks(request: HttpRequest) -> HttpResponse:
    """Show the user's own tasks, newest first; ``?page=2`` shows older ones.

    Nothing is counted: a page reads one task more than it shows, to know whether another follows.
    """
    number = _page_number(request.GET.get("page", "1"))
    if number is None:
        text = _("There are pages from 1 to %(last)s.") % {"last": LAST_PAGE}
        return HttpResponseBadRequest(text, content_type="text/plain; charset=utf-8")
    # First, since what is written after this belongs to the first update.
    cursor = read_cursor()
    start = (number - 1) * PAGE_SIZE
    rows = Task.objects.for_user(request.user).only(*COLUMNS)
    found = [shown(task) for task in rows[start : start + PAGE_SIZE + 1]]
    has_next = len(found) > PAGE_SIZE and number < LAST_PAGE
    context: dict[str, Any] = {
        "tasks": found[:PAGE_SIZE],
        "page_size": PAGE_SIZE,
        # New tasks appear on the first page alone.
        "cursor": cursor if number == 1 else None,
        "previous_page": number - 1 if number > 1 else None,
        "next_page": number + 1 if has_next else None,
    }
    return render(request, "taskstate/tasks.html", context)


def _page_number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(LAST_PAGE))):
        return None
    return int(text) if 1 <= int(text) <= LAST_PAGE else None
