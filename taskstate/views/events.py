"""The tasks as server-sent events, where the site runs under ASGI.

Each stream asks the database once per interval, which grows while nothing changes.  It keeps no
connection to the database in between, and ends after some minutes: then the browser comes again,
and who may see what is decided anew.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any, AsyncIterator, Callable

import django
from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.db import DatabaseError, connections
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone, translation

from .answers import for_scripts
from .feed import Answer, Question, answer, parse_cursor, parse_question
from .json import as_json

logger = logging.getLogger(__name__)

#: Between two questions to the database, in seconds: while something changes, ever longer while
#: nothing does, and at most.
INTERVAL_SECONDS = 1.0
INTERVAL_GROWTH = 1.3
LONGEST_INTERVAL_SECONDS = 5.0
#: After so many seconds without an event a comment is sent: proxies close what is silent.
HEARTBEAT_SECONDS = 15.0
#: After so many seconds a stream ends.
LIFE_SECONDS = 300.0

CONTENT_TYPE = "text/event-stream"

Ask = Callable[[Question], Answer]


def can_stream(request: object) -> bool:
    """Return whether an answer to this request can go on without occupying a worker: under ASGI,
    from Django 4.2."""
    return isinstance(request, ASGIRequest) and django.VERSION >= (4, 2)


@for_scripts
def tasks_events(request: HttpRequest) -> HttpResponseBase:
    """Tell what changes, with the parameters and the JSON of ``tasks_json``.

    Where that can't be done the answer is an empty 204, which tells a browser not to try again.
    """
    question = parse_question(request.GET)
    last = request.headers.get("Last-Event-ID")
    if last is not None and question.wants_newest:
        question = question._replace(since=parse_cursor(last))
    if not can_stream(request):
        return HttpResponse(status=204)
    if request.method == "HEAD":
        return HttpResponse(content_type=CONTENT_TYPE)
    # Proxies that keep an answer until it is complete are asked not to.
    headers = {"X-Accel-Buffering": "no"}
    events = _events(_asking(request.user), question)
    return StreamingHttpResponse(events, content_type=CONTENT_TYPE, headers=headers)


def _asking(user: Any) -> Ask:
    """Return what asks for this user, in the language and the time zone of this request."""
    language, zone = translation.get_language(), timezone.get_current_timezone()

    def ask(question: Question) -> Answer:
        try:
            with translation.override(language), timezone.override(zone):
                return answer(user, question)
        finally:
            _close_connections()

    return ask


def _close_connections() -> None:
    """Close the connections of this thread: it sleeps now, maybe with thousands of others."""
    for alias in connections:
        connection = connections[alias]
        if not connection.in_atomic_block:
            connection.close()


async def _events(
    ask: Ask, question: Question, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[str]:
    """Yield events until the stream has lived for long enough."""
    born = heard = clock()
    sent: dict[str, dict[str, Any]] = {}
    is_first = True
    interval = INTERVAL_SECONDS
    while True:
        try:
            found = await sync_to_async(ask)(question)
        except DatabaseError as error:
            logger.warning("A stream of task states ends, the database does not answer: %s", error)
            return
        fresh = [task for task in found.tasks if sent.get(task["id"]) != task]
        # What is not in this answer can't come again without having changed.
        sent = {task["id"]: task for task in found.tasks}
        now = clock()
        if fresh or is_first:
            heard, is_first = now, False
            interval = INTERVAL_SECONDS
            yield _event(Answer(fresh, found.cursor))
        elif now - heard >= HEARTBEAT_SECONDS:
            heard = now
            yield ": still here\n\n"
        if question.wants_newest:
            question = question._replace(since=found.cursor)
        if now - born >= LIFE_SECONDS:
            return
        await asyncio.sleep(interval)
        interval = min(interval * INTERVAL_GROWTH, LONGEST_INTERVAL_SECONDS)


def _event(found: Answer) -> str:
    return f"id: {found.cursor}\ndata: {json.dumps(as_json(found))}\n\n"
