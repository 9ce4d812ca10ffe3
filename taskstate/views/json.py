"""The tasks as JSON, for scripts that poll."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, JsonResponse
from django.http.response import HttpResponseBase

from taskstate.views.decorators import json_api
from taskstate.views.queries import TaskPage, find_page, parse_query
from taskstate.visibility import TaskAccess


@json_api
def tasks_json(request: HttpRequest) -> HttpResponseBase:
    """Return the tasks of ``?id=…&id=…``, those that changed since ``?since=…``, or the newest."""
    query = parse_query(request.GET)
    return JsonResponse(page_to_json(find_page(TaskAccess(request), query)))


def page_to_json(page: TaskPage) -> dict[str, Any]:
    """Return a page as JSON.

    The cursor is a text: a script stores it and sends it back, and never calculates with it.
    """
    fields = {"tasks": page.tasks, "cursor": str(page.cursor), "viewer": page.viewer_mark}
    return {**fields, "hints": page.hints} if page.hints else fields
