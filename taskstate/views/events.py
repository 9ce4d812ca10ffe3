"""The tasks as server-sent events, for sites that run under ASGI.

Each stream queries the database at intervals, which grow while nothing changes.  For each task that
it has sent it remembers a fingerprint, which is a number, and it reads a task again only if its
fingerprint has changed.  Between two queries it holds no connection to the database.  A stream ends
after a minute.  The browser then connects again, and permissions are checked again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from typing import Any, AsyncIterator, Awaitable, Callable, Iterator, NamedTuple
from uuid import UUID

import django
from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.db import Error, connections
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone, translation

from taskstate import conf
from taskstate.models import TaskQuerySet
from taskstate.stores.errors import summarize
from taskstate.views import queries, streams
from taskstate.views.decorators import json_api
from taskstate.views.json import page_to_json
from taskstate.views.queries import TaskPage, TaskQuery, parse_cursor, parse_query
from taskstate.visibility import TaskAccess

logger = logging.getLogger(__name__)

#: The seconds between two queries: while something changes, the factor by which they grow while
#: nothing does, and their maximum.
INTERVAL_SECONDS = 1.0
INTERVAL_GROWTH = 1.3
MAX_INTERVAL_SECONDS = 5.0
#: The seconds without an event after which a comment is sent, since proxies close idle connections.
HEARTBEAT_SECONDS = 15.0
#: The seconds after which a stream ends.
LIFE_SECONDS = 60.0
#: The number of tasks with results in one event.  Results may be long, and an event stays in memory
#: until its reader has received it.
TASKS_PER_EVENT = 10
#: The number of characters that the server is given at once: it keeps the last piece of each stream
#: in memory until the next one.
PIECE_LENGTH = 16 * 1024

CONTENT_TYPE = "text/event-stream"

#: A task has changed if one of these columns has.  ``written_at`` alone misses two cases: rows that
#: the site updates itself, and two writes in one millisecond, which is the precision of SQLite.
_FINGERPRINT_COLUMNS = ("pk", "written_at", "status", "updated_at", "progress")

#: Calls a function with its arguments in a thread.
Call = Callable[..., Awaitable[Any]]


def can_stream(request: object) -> bool:
    """Return whether this request can have a stream that occupies no worker of the server.

    That needs ASGI, Django 4.2 or later, and a ``MAX_STREAMS`` above 0.
    """
    is_asgi = isinstance(request, ASGIRequest) and django.VERSION >= (4, 2)
    return is_asgi and streams.max_streams() > 0


@json_api
def tasks_events(request: HttpRequest) -> HttpResponseBase:
    """Send the tasks that change, with the parameters and the JSON of ``tasks_json``.

    If there can be no stream, or there are too many already, the response is an empty 204.  After
    that a browser does not connect again.
    """
    query = parse_query(request.GET)
    last = request.headers.get("Last-Event-ID")
    if last is not None and query.wants_newest:
        query = query._replace(since=parse_cursor(last))
    if not can_stream(request):
        return HttpResponse(status=204)
    if request.method == "HEAD":
        return HttpResponse(content_type=CONTENT_TYPE)
    access = TaskAccess(request)
    subscription = _Subscription(access, query)
    # With the tenant, since users of two tenants may have the same key.
    slot = streams.take_slot((access.viewer.tenant, access.viewer.user_pk))
    if slot is None:
        return HttpResponse(status=204)
    # Asks proxies not to hold the response back until it is complete.
    headers = {"X-Accel-Buffering": "no"}
    stream = _Stream(subscription, slot)
    return StreamingHttpResponse(stream, content_type=CONTENT_TYPE, headers=headers)


class _Stream:
    """The content of a response.  It gives its slot back when the stream ends, when the response is
    closed, or else when it is garbage-collected."""

    def __init__(self, subscription: _Subscription, slot: streams.Slot) -> None:
        self._events = _events(subscription, slot)
        self.close = slot.close

    def __aiter__(self) -> AsyncIterator[str]:
        return self._events


class _Changes(NamedTuple):
    """The changes that a stream has to send."""

    #: The ids of the changed tasks, one list per event.
    portions: list[list[UUID]]
    cursor: int
    #: As in a ``TaskPage``.
    hints: dict[str, str]


class _Subscription:
    """A query whose changes a stream sends, with the fingerprints of what was sent.

    Tasks are read in the language and the time zone of the request.
    """

    def __init__(self, access: TaskAccess, query: TaskQuery) -> None:
        self._access = access
        self._query = query
        # All that depends on the tenant is read here, in the thread of the request: other threads
        # may be in the schema of another tenant, with other users.
        self._tasks = access.tasks
        self._candidates = queries.newest_candidates(access, query)
        _ = access.viewer.is_staff
        self.viewer_mark = access.viewer.mark
        self._language = translation.get_language()
        self._zone = timezone.get_current_timezone()
        #: The fingerprint of each task as it was sent.
        self._sent: dict[UUID, int] = {}

    def find_changes(self) -> _Changes:
        """Find the tasks that have changed since the last call.  It reads a few short columns."""
        query = self._query
        # Before the rows: what is written in between belongs to the next call.
        cursor = queries.read_cursor()
        newest: dict[UUID, int] = {}
        if query.wants_newest:
            newest = _fingerprints(self._candidates[: queries.NEWEST], query.since, cursor)
            self._query = query._replace(since=cursor)
        asked = {}
        if query.ids:
            asked = _fingerprints(self._tasks.filter(pk__in=query.ids))
        found = {**newest, **asked}
        changed = [pk for pk, fingerprint in found.items() if self._sent.get(pk) != fingerprint]
        # A task that was not found now is found again only after it has changed.
        self._sent = found
        without_result = [pk for pk in changed if pk not in asked]
        with_result = [pk for pk in changed if pk in asked]
        # All tasks without a result are in the first event, so that a client that has the cursor
        # of any event has these tasks.
        portions = [without_result + with_result[:TASKS_PER_EVENT]] if changed else []
        starts = range(TASKS_PER_EVENT, len(with_result), TASKS_PER_EVENT)
        portions += [with_result[start : start + TASKS_PER_EVENT] for start in starts]
        return _Changes(portions, cursor, queries.find_missing_hints(self._access, query, asked))

    def read(self, portion: list[UUID]) -> list[dict[str, Any]]:
        """Return the tasks of an event as JSON, newest first."""
        ids = set(self._query.ids)
        newest = self._candidates.filter(pk__in=[pk for pk in portion if pk not in ids])
        asked = self._tasks.filter(pk__in=[pk for pk in portion if pk in ids])
        with translation.override(self._language), timezone.override(self._zone):
            found = queries.read_tasks(newest, asked)
            return queries.serialize_tasks(found, self._access, self._query)

    def needs_thread_of_request(self) -> bool:
        """Return whether only the thread of the request can read these tasks: in the transaction
        of a test, or with an in-memory SQLite database."""
        return connections[conf.tasks_database()].in_atomic_block or conf.is_in_memory()


def _fingerprints(tasks: TaskQuerySet, since: int | None = None, now: int = 0) -> dict[UUID, int]:
    """Return a number for each task that differs after the task has changed.

    With a cursor ``since``, only the tasks written after it are returned.
    """
    rows = tasks.values_list(*_FINGERPRINT_COLUMNS, named=True)
    limit = None if since is None else queries.written_after(since, now)
    return {row.pk: hash(row) for row in rows if limit is None or (row.written_at or 0) > limit}


def _close_connections() -> None:
    """Close the connections of this thread, which may not be used for a long time."""
    for alias in connections:
        connection = connections[alias]
        if not connection.in_atomic_block:
            connection.close()


async def _choose_threads(subscription: _Subscription) -> Call:
    """Return a function that calls another one in a thread that can read the tasks.

    Django keeps the thread of the request for as long as the stream.  The connections that it has
    opened to identify the user are closed here.  The queries run in the threads that all streams
    share, except where only the thread of the request can read the tasks.
    """

    def release_request_thread() -> bool:
        try:
            return subscription.needs_thread_of_request()
        finally:
            _close_connections()

    uses_request_thread = await sync_to_async(release_request_thread)()
    executor = None if uses_request_thread else streams.query_threads()

    async def call(function: Callable[..., Any], *arguments: Any) -> Any:
        def call_and_close() -> Any:
            try:
                return function(*arguments)
            finally:
                _close_connections()

        in_thread = sync_to_async(
            call_and_close, thread_sensitive=uses_request_thread, executor=executor
        )
        return await in_thread()

    return call


@contextlib.contextmanager
def _end_on_database_error() -> Iterator[None]:
    try:
        yield
    except Error as error:
        logger.warning(
            "The database does not answer: %s. A stream of task events ends, and its page polls.",
            summarize(error),
        )


async def _events(
    subscription: _Subscription, slot: streams.Slot, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[str]:
    """Yield the text of a stream in pieces, until its time is over or the server is about to stop.
    Then give its slot back."""
    with contextlib.closing(slot), _end_on_database_error():
        call = await _choose_threads(subscription)
        started_at = sent_at = clock()
        is_first = True
        interval = INTERVAL_SECONDS
        while True:
            changes = await call(subscription.find_changes)
            # The first event is sent even if it is empty: the script waits for it.
            portions = changes.portions or ([[]] if is_first else [])
            for portion in portions:
                tasks = await call(subscription.read, portion)
                mark = subscription.viewer_mark
                for piece in _pieces(TaskPage(tasks, changes.cursor, mark, changes.hints)):
                    yield piece
            now = clock()
            if portions:
                sent_at, is_first = now, False
                interval = INTERVAL_SECONDS
            elif now - sent_at >= HEARTBEAT_SECONDS:
                sent_at = now
                yield ": still here\n\n"
            if now - started_at >= LIFE_SECONDS:
                return
            await streams.sleep(interval)
            if streams.is_stopping():
                return
            interval = min(interval * INTERVAL_GROWTH, MAX_INTERVAL_SECONDS)


def _pieces(page: TaskPage) -> Iterator[str]:
    """Yield the text of an event in pieces."""
    text = f"id: {page.cursor}\ndata: {json.dumps(page_to_json(page))}\n\n"
    for start in range(0, len(text), PIECE_LENGTH):
        yield text[start : start + PIECE_LENGTH]
