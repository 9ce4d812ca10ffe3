"""Which tasks an answer holds: those that were asked for, and what changed since a cursor.

Nobody gets to see another user's tasks, unless they may view tasks in the admin as well.

A cursor is a time by the database's clock, in microseconds since 1970: that of reading, which is
compared with ``Task.written_at``.  A row can be read only when its transaction has committed, and
that is later than its ``written_at`` says; so a cursor looks ``OVERLAP_SECONDS`` further back than
it says, and a reader may get the same state twice.

No column that changes is indexed.  "What changed" is therefore looked for in the newest tasks
alone, however many there are: a task that is older than these is followed by its id.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connections
from django.http import QueryDict

from .. import conf
from ..models import Task, TaskQuerySet
from ..stores.watermark import clock_of
from .shown import COLUMNS, shown

#: Ids in one question: with these a URL stays below the 4,096 bytes that some servers take.
MAX_IDS = 50
#: Tasks that are looked at for changes, and the most that an answer holds beside those asked for.
NEWEST = 100
#: How long after its ``written_at`` a row may become visible without being missed.
OVERLAP_SECONDS = 10

_MAX_CURSOR = 2**63 - 1
_is_cursor = re.compile(r"[0-9]{1,19}").fullmatch
_is_uuid = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}").fullmatch


class BadQuestionError(ValueError):
    """A parameter can't be answered; the text says which, and what would be right."""


class Question(NamedTuple):
    """What somebody wants to know."""

    #: Tasks that are answered as they are, changed or not.
    ids: tuple[UUID, ...] = ()
    #: In addition: those of the newest that changed since this cursor.
    since: int | None = None
    #: Look for changes in the user's own tasks, even if they may see others.
    mine: bool = False

    @property
    def wants_newest(self) -> bool:
        """Whether the newest tasks are asked for, or those of them that changed."""
        return self.since is not None or not self.ids


class Answer(NamedTuple):
    """What they get to know."""

    #: Newest first.
    tasks: list[dict[str, Any]]
    #: The ``since`` of the next question.
    cursor: int


def parse_question(parameters: QueryDict) -> Question:
    """Read the parameters ``id`` (any number of times), ``since`` and ``mine`` of a URL.

    Raises:
      BadQuestionError: If one can't be read, or if there are too many.
    """
    texts = parameters.getlist("id")
    if len(texts) > MAX_IDS:
        raise BadQuestionError(
            f"{len(texts)} ids are too many: ask for up to {MAX_IDS} with one request."
        )
    for text in texts:
        if not _is_uuid(text):
            raise BadQuestionError(f"id is {text[:50]!r}, which is no UUID: give a message's id.")
    ids = tuple(dict.fromkeys(UUID(text) for text in texts))
    since = parameters.get("since")
    return Question(
        ids=ids,
        since=None if since is None else parse_cursor(since),
        mine=parameters.get("mine") == "1",
    )


def parse_cursor(text: str) -> int:
    """Read a cursor.

    Raises:
      BadQuestionError: If it is none.
    """
    if not _is_cursor(text) or int(text) > _MAX_CURSOR:
        raise BadQuestionError(
            f"since is {text[:50]!r}, which is no cursor: give the one of the last answer."
        )
    return int(text)


def visible_to(user: Any) -> TaskQuerySet:
    """Return the tasks that a user may see: their own, or all if they are staff with the
    permission ``taskstate.view_task``, or a superuser."""
    is_staff = getattr(user, "is_staff", False) or getattr(user, "is_superuser", False)
    if is_staff and user.has_perm("taskstate.view_task"):
        return Task.objects.all()
    return Task.objects.for_user(user)


def read_cursor() -> int:
    """Return a cursor for what is read from now on."""
    connection = connections[conf.tasks_database()]
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {clock_of(connection)}")
        return int(cursor.fetchone()[0])


def answer(user: Any, question: Question) -> Answer:
    """Answer a question, as far as it is any of the user's business.

    It takes up to four queries, whatever the number of tasks, and reads up to ``NEWEST`` rows
    beside those asked for.
    """
    # First, since what is written after this belongs to the next answer.
    cursor = read_cursor()
    visible = visible_to(user)
    tasks: dict[UUID, dict[str, Any]] = {}
    if question.wants_newest:
        candidates = Task.objects.for_user(user) if question.mine else visible
        for task in _newest(candidates, question.since, cursor):
            tasks[task.pk] = shown(task)
    if question.ids:
        for task in visible.filter(pk__in=question.ids).only(*COLUMNS, "result"):
            tasks[task.pk] = shown(task, with_result=True)
    ordered = sorted(tasks.values(), key=lambda task: str(task["enqueued_at"]), reverse=True)
    return Answer(ordered, cursor)


def _newest(candidates: TaskQuerySet, since: int | None, now: int) -> TaskQuerySet:
    """Return the newest tasks, or those of them that were written since a cursor."""
    if since is None:
        return candidates.only(*COLUMNS)[:NEWEST]
    # A cursor of the future is left from before the database's clock was set back.
    limit = min(since, now) - OVERLAP_SECONDS * 1_000_000
    # Not in the database: it would have to look further than the newest for as many that match,
    # and MariaDB takes no limit in a subquery.
    newest = candidates.values_list("pk", "written_at")[:NEWEST]
    changed = [pk for pk, written_at in newest if written_at is not None and written_at > limit]
    if not changed:
        return candidates.none()
    return candidates.filter(pk__in=changed).only(*COLUMNS)
