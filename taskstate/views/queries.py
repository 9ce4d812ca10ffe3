"""Which tasks a response holds: those that were asked for by id, and those that changed.

``taskstate.visibility`` decides which tasks a request may see.

A reader asks for changes with a *cursor*: the time of its last response, in microseconds since 1970
by the database's clock.  Rows whose ``written_at`` is later have changed since then.  A row becomes
visible only when its transaction commits, a little after its ``written_at``.  A cursor therefore
looks ``OVERLAP_SECONDS`` further back than it says, and a reader may get the same state twice.

No column that changes has an index.  So changes are looked for only among the newest tasks, which
costs the same however many tasks exist.  Older tasks are followed by their ids.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Any, Container, Mapping, NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import connections
from django.http import QueryDict

from taskstate import conf
from taskstate.models import Task, TaskQuerySet
from taskstate.stores.clock import current_time_sql
from taskstate.views.hints import NO_WORKER, find_hints, is_late
from taskstate.views.serializers import COLUMNS, serialize_task
from taskstate.visibility import TaskAccess

#: The most ids in one query.  With these a URL stays below 4,096 bytes, the limit of some servers.
MAX_IDS = 50
#: The number of newest tasks that are searched for changes.  A response holds at most these, and
#: those asked for by id.
NEWEST = 100
#: How long after its ``written_at`` a row may become visible without being missed.
OVERLAP_SECONDS = 10

_MAX_CURSOR = 2**63 - 1
_is_cursor = re.compile(r"[0-9]{1,19}").fullmatch
_is_uuid = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}").fullmatch


class BadQueryError(ValueError):
    """A parameter of a URL is not valid.  The text names it, its value, and a valid one."""


class TaskQuery(NamedTuple):
    """What a request asks for."""

    #: Tasks to return whether they have changed or not.
    ids: tuple[UUID, ...] = ()
    #: Return in addition those of the newest tasks that have changed since this cursor.
    since: int | None = None
    #: Look for changes only among the user's own tasks, even if they may see others.
    mine: bool = False

    @property
    def wants_newest(self) -> bool:
        """Whether to return the newest tasks, or those of them that have changed."""
        return self.since is not None or not self.ids


class TaskPage(NamedTuple):
    """The response to a query."""

    #: The tasks as JSON, newest first.
    tasks: list[dict[str, Any]]
    #: The ``since`` of the next query.
    cursor: int
    #: ``Viewer.mark`` of the user that the response is for.
    viewer_mark: str
    #: With ``DEBUG``: why a task is missing or stays enqueued, by the id of the task.
    hints: Mapping[str, str] = MappingProxyType({})


def parse_query(parameters: QueryDict) -> TaskQuery:
    """Read the parameters of a URL: ``id``, which may be repeated, ``since`` and ``mine``.

    Raises:
      BadQueryError: If one is not valid, or there are too many ids.
    """
    texts = parameters.getlist("id")
    if len(texts) > MAX_IDS:
        raise BadQueryError(f"{len(texts)} ids are too many; use up to {MAX_IDS} per request.")
    for text in texts:
        if not _is_uuid(text):
            raise BadQueryError(f"id: {text[:50]!r} is not a UUID; use the id of a message.")
    ids = tuple(dict.fromkeys(UUID(text) for text in texts))
    since = parameters.get("since")
    return TaskQuery(
        ids=ids,
        since=None if since is None else parse_cursor(since),
        mine=parameters.get("mine") == "1",
    )


def parse_cursor(text: str) -> int:
    """Return the cursor that a text holds.

    Raises:
      BadQueryError: If the text is not a cursor.
    """
    if not _is_cursor(text) or int(text) > _MAX_CURSOR:
        raise BadQueryError(
            f"since: {text[:50]!r} is not a cursor; use the cursor of the last response, or 0."
        )
    return int(text)


def read_cursor() -> int:
    """Return a cursor for what is read after this call."""
    connection = connections[conf.tasks_database()]
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {current_time_sql(connection)}")
        return int(cursor.fetchone()[0])


def find_page(access: TaskAccess, query: TaskQuery) -> TaskPage:
    """Return the response to a query, from the tasks that the request may see.

    It takes up to four queries of the database, and reads up to ``NEWEST`` rows beside those asked
    for by id.  With ``DEBUG`` it takes one more for the hints.
    """
    # Before the rows: what is written in between belongs to the next response.
    cursor = read_cursor()
    newest = access.tasks.none()
    if query.wants_newest:
        newest = _changed_since(newest_candidates(access, query), query.since, cursor)
    found = read_tasks(newest, access.tasks.filter(pk__in=query.ids))
    tasks = serialize_tasks(found, access, query)
    hints = find_missing_hints(access, query, {task.pk for task in found})
    if settings.DEBUG:
        late = [task for task in found if task.pk in query.ids and is_late(task)]
        hints.update((str(task.pk), NO_WORKER) for task in late)
    return TaskPage(tasks, cursor, access.viewer.mark, hints)


def newest_candidates(access: TaskAccess, query: TaskQuery) -> TaskQuerySet:
    """Return the tasks among which a query looks for changes, newest first."""
    return access.own_tasks if query.mine else access.tasks


def read_tasks(newest: TaskQuerySet, asked: TaskQuerySet) -> list[Task]:
    """Read the tasks of a response, newest first.

    Parameters:
      newest(TaskQuerySet): The newest tasks, or those of them that have changed.
      asked(TaskQuerySet): The tasks that were asked for by id.  Only their results are read.
    """
    found = {task.pk: task for task in newest.only(*COLUMNS)}
    found.update((task.pk, task) for task in asked.only(*COLUMNS, "result"))
    return sorted(found.values(), key=lambda task: task.enqueued_at, reverse=True)


def serialize_tasks(
    tasks: list[Task], access: TaskAccess, query: TaskQuery
) -> list[dict[str, Any]]:
    """Return tasks as JSON; those that were asked for by id with their results."""
    ids = set(query.ids)
    return [serialize_task(task, access.viewer, with_result=task.pk in ids) for task in tasks]


def find_missing_hints(
    access: TaskAccess, query: TaskQuery, found: Container[UUID]
) -> dict[str, str]:
    """Return hints about the tasks that were asked for by id and not found; none without
    ``DEBUG``."""
    missing = [pk for pk in query.ids if pk not in found] if settings.DEBUG else []
    return find_hints(missing, access.viewer) if missing else {}


def written_after(since: int, now: int) -> int:
    """Return the limit for a cursor: rows with a greater ``written_at`` have changed since then."""
    # A cursor of the future comes from a time before the database's clock was set back.
    return min(since, now) - OVERLAP_SECONDS * 1_000_000


def _changed_since(candidates: TaskQuerySet, since: int | None, now: int) -> TaskQuerySet:
    """Return the newest of the candidates; with a cursor, those of them that have changed."""
    if since is None:
        return candidates[:NEWEST]
    limit = written_after(since, now)
    # Compared here and not in the database, which would search beyond the newest tasks to find as
    # many that match.  MariaDB allows no LIMIT in such a subquery.
    newest = candidates.values_list("pk", "written_at")[:NEWEST]
    # A row without written_at counts as newer than the cursor 0.
    changed = [pk for pk, written_at in newest if (written_at or 0) > limit]
    return candidates.filter(pk__in=changed)
