"""Deletion of tasks in batches, for ``clear_tasks`` and for the actor that deletes old tasks."""

from __future__ import annotations

import datetime
import logging
import uuid
from typing import Iterable, Iterator

from django.db import DatabaseError, connections
from django.db.models import Max
from django.utils import timezone

from taskstate.models import Status, Task, TaskQuerySet
from taskstate.stores import lock_timeout
from taskstate.stores.errors import is_contention, summarize
from taskstate.transitions.status import FINISHED
from taskstate.utils.durations import LONGEST_AGE

logger = logging.getLogger(__name__)

#: How many rows a batch has by default, and at most: PostgreSQL allows 65,535 parameters.
BATCH_SIZE = 1000
MAX_BATCH_SIZE = 10_000

#: A task that has changed within this time is never deleted as old.  An earlier state of it may
#: still be pending in another process: written after the delete, it would look like the latest one.
MIN_AGE = datetime.timedelta(minutes=1)

#: How far the clock of the host that sent a message may be ahead of the clock of the host that
#: finished it.  It allows for a wrong time zone.
_CLOCK_MARGIN = datetime.timedelta(days=1)

#: Parameters of a statement besides its keys, where their number is limited (SQLite).
_OTHER_PARAMETERS = 50

#: How many times a batch is tried while another transaction holds its rows.
TRIES = 5


def old_tasks(older_than: datetime.timedelta, statuses: Iterable[str] = FINISHED) -> TaskQuerySet:
    """Return the tasks with certain statuses whose last transition is older than an age.

    A finished task that is deleted does not come back, unless it runs again.  (After an outage in
    which a process did not learn that its commit succeeded, the process writes the last state once
    more.)  An active task comes back with its next state.

    Parameters:
      older_than(timedelta): The age, ``MIN_AGE`` or more.
      statuses(Iterable[str]): One or more statuses.

    Raises:
      ValueError: If a status is unknown, no status is given, or the age is below ``MIN_AGE``.
    """
    now = timezone.now()
    wanted = _known(statuses)
    if older_than < MIN_AGE:
        raise ValueError(
            f"An age of {older_than.total_seconds():.0f} seconds is too short: tasks that have "
            "changed within the last minute may have states that are not written yet. Use 60s or "
            "more."
        )
    before = now - min(older_than, LONGEST_AGE)
    # A message is enqueued before anything else happens to it, and enqueued_at never changes. So
    # the index on it excludes the tasks that are too new.
    limit = before + _CLOCK_MARGIN
    return Task.objects.filter(enqueued_at__lt=limit, updated_at__lt=before, status__in=wanted)


def check_batch_size(size: int) -> None:
    """Raise ``ValueError`` unless this is a valid number of rows for a batch."""
    if not isinstance(size, int) or not 1 <= size <= MAX_BATCH_SIZE:
        raise ValueError(
            f"A batch size of {size!r} is out of range; use a whole number from 1 to "
            f"{MAX_BATCH_SIZE:,}."
        )


def all_tasks() -> TaskQuerySet:
    """Return all tasks that exist now, and none that are enqueued later."""
    tasks = Task.objects.all()
    newest = tasks.aggregate(newest=Max("enqueued_at"))["newest"]
    return tasks.none() if newest is None else tasks.filter(enqueued_at__lte=newest)


def delete(tasks: TaskQuerySet, batch_size: int = BATCH_SIZE) -> Iterator[int]:
    """Delete tasks, oldest first, each batch in a short transaction of its own.

    If the caller stops early, the batches so far are deleted.  A task that changes before its
    batch is deleted, so that it no longer matches ``tasks``, is kept.

    Parameters:
      tasks(TaskQuerySet): The tasks, from ``old_tasks`` or ``all_tasks``.
      batch_size(int): Rows in a batch.  On SQLite, which limits parameters, it may be fewer.

    Yields:
      int: How many rows the batch has deleted.
    """
    size = min(batch_size, _most_keys(tasks.db))
    rest = tasks.order_by("enqueued_at")
    while True:
        found = list(rest.values_list("pk", "enqueued_at")[:size])
        if not found:
            return
        yield _delete_batch(tasks, [pk for pk, _ in found])
        if len(found) < size:
            return
        # Continue from there: the index still contains the deleted rows, and would be read again.
        rest = tasks.filter(enqueued_at__gte=found[-1][1]).order_by("enqueued_at")


def _delete_batch(tasks: TaskQuerySet, keys: list[uuid.UUID]) -> int:
    """Delete the rows with these keys that still match ``tasks``; wait for locks on them."""
    connection = connections[tasks.db]
    # Django's own delete takes one statement, unless a project has a foreign key to tasks or
    # receives the signals of deletes. Then it does what the project expects.
    batch = tasks.filter(pk__in=keys)
    for tries_left in reversed(range(TRIES)):
        try:
            with lock_timeout.transaction(connection):
                _, deleted = batch.delete()
        except DatabaseError as error:
            if not tries_left or connection.in_atomic_block or not is_contention(error):
                raise
            logger.debug("Another transaction holds old tasks, trying again: %s", summarize(error))
        else:
            break
    return deleted.get(Task._meta.label, 0)


def _most_keys(alias: str) -> int:
    """Return how many keys a statement may have.  SQLite limits its parameters."""
    limit = connections[alias].features.max_query_params
    return MAX_BATCH_SIZE if limit is None else limit - _OTHER_PARAMETERS


def _known(statuses: Iterable[str]) -> list[str]:
    wanted = [statuses] if isinstance(statuses, str) else list(statuses)
    unknown = [status for status in wanted if status not in Status.values]
    if unknown or not wanted:
        what = f"{unknown[0]!r} is not a status of a task" if unknown else "No status is given"
        raise ValueError(f"{what}; use one or more of {', '.join(Status.values)}.")
    return wanted
