"""The tasks as JSON, for scripts that ask again and again."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, JsonResponse
from django.http.response import HttpResponseBase

from .answers import for_scripts
from .feed import Answer, answer, parse_question


@for_scripts
def tasks_json(request: HttpRequest) -> HttpResponseBase:
    """Answer with the tasks of ``?id=…&id=…``, with what changed since ``?since=``, or with the
    newest."""
    question = parse_question(request.GET)
    return JsonResponse(as_json(answer(request.user, question)))


def as_json(found: Answer) -> dict[str, Any]:
    """Return an answer as it is sent.  The cursor is text: it is for JavaScript to keep, and not
    to calculate with."""
    return {"tasks": found.tasks, "cursor": str(found.cursor)}
