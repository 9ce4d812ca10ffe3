"""Deletes tasks batch by batch: what ``clear_tasks`` and the actor for schedulers share."""

from __future__ import annotations

import datetime
import logging
import uuid
from typing import Iterable, Iterator

from django.db import DatabaseError, connections
from django.db.models import Max
from django.utils import timezone

from .models import Status, Task, TaskQuerySet
from .stores import locks
from .stores.errors import describe, is_contention
from .times import LONGEST_AGE
from .transitions import FINISHED

logger = logging.getLogger(__name__)

#: The default, and how many rows a batch may have: PostgreSQL takes no more than 65,535 parameters.
BATCH_SIZE = 1000
MAX_BATCH_SIZE = 10_000

#: What has changed within this time is never old.  An earlier state of the same task may still be
#: pending in another process: written after the delete, it would stay as if nothing had followed.
MIN_AGE = datetime.timedelta(minutes=1)

#: How far the clock of the host that sent a message may be ahead of the one that ended it: a wrong
#: time zone as well.
_CLOCK_MARGIN = datetime.timedelta(days=1)

#: What a statement needs besides its keys, where the number of parameters is limited (SQLite).
_OTHER_PARAMETERS = 50

#: How often a batch is tried when another transaction holds its rows.
TRIES = 5


def old_tasks(older_than: datetime.timedelta, statuses: Iterable[str] = FINISHED) -> TaskQuerySet:
    """Return the tasks of some statuses whose last transition is older than an age.

    A finished task that is deleted stays away, unless it runs again.  (Its last state is written
    once more if a process could not tell, in an outage, that it had been: that is true as well.)
    An active one comes back with its next state.

    Raises:
      ValueError: If a status is unknown, or there is none, or the age is below ``MIN_AGE``.
    """
    now = timezone.now()
    wanted = _known(statuses)
    if older_than < MIN_AGE:
        raise ValueError(
            f"An age of {older_than.total_seconds():.0f} seconds is too young: what has changed "
            "within a minute may be in the middle of being written. Give 60s or more."
        )
    before = now - min(older_than, LONGEST_AGE)
    # A message is enqueued before anything becomes of it, and that time never changes: the index on
    # it leaves out all that is too young.
    limit = before + _CLOCK_MARGIN
    return Task.objects.filter(enqueued_at__lt=limit, updated_at__lt=before, status__in=wanted)


def check_batch_size(size: int) -> None:
    """Raise ``ValueError`` unless batches can have this many rows."""
    if not isinstance(size, int) or not 1 <= size <= MAX_BATCH_SIZE:
        raise ValueError(
            f"A batch size of {size!r} is out of range. Give a whole number from 1 to "
            f"{MAX_BATCH_SIZE:,}."
        )


def all_tasks() -> TaskQuerySet:
    """Return all tasks that are there now, and none that is enqueued later."""
    tasks = Task.objects.all()
    newest = tasks.aggregate(newest=Max("enqueued_at"))["newest"]
    return tasks.none() if newest is None else tasks.filter(enqueued_at__lte=newest)


def delete(tasks: TaskQuerySet, batch_size: int = BATCH_SIZE) -> Iterator[int]:
    """Delete tasks, oldest first, each batch in a short transaction of its own.

    Whoever stops in the middle has deleted the batches so far.  A task that has changed since it
    was found, so that it is none of ``tasks`` any more, stays.

    Parameters:
      tasks(TaskQuerySet): From this module.
      batch_size(int): Rows in a batch.  On SQLite it may be fewer: see its limit of parameters.

    Yields:
      int: How many rows each batch has deleted.
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
        # From there on: an index still holds what was deleted, and would be read again and again.
        rest = tasks.filter(enqueued_at__gte=found[-1][1]).order_by("enqueued_at")


def _delete_batch(tasks: TaskQuerySet, keys: list[uuid.UUID]) -> int:
    """Delete the rows of ``keys`` that are still among ``tasks``, and wait for who holds them."""
    connection = connections[tasks.db]
    # Django's own delete: one statement, unless a project has a foreign key to tasks or listens to
    # deletes; then it does what the project expects.
    batch = tasks.filter(pk__in=keys)
    for tries_left in reversed(range(TRIES)):
        try:
            with locks.transaction(connection):
                _, deleted = batch.delete()
        except DatabaseError as error:
            if not tries_left or connection.in_atomic_block or not is_contention(error):
                raise
            logger.debug("Somebody holds old tasks, trying again: %s", describe(error))
        else:
            break
    return deleted.get(Task._meta.label, 0)


def _most_keys(alias: str) -> int:
    """Return how many keys a statement can have: SQLite limits its parameters."""
    limit = connections[alias].features.max_query_params
    return MAX_BATCH_SIZE if limit is None else limit - _OTHER_PARAMETERS


def _known(statuses: Iterable[str]) -> list[str]:
    wanted = [statuses] if isinstance(statuses, str) else list(statuses)
    unknown = [status for status in wanted if status not in Status.values]
    if unknown or not wanted:
        what = f"{unknown[0]!r} is no status of a task." if unknown else "No status is given."
        raise ValueError(f"{what} The statuses are {', '.join(Status.values)}.")
    return wanted
