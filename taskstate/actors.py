"""An actor that deletes old tasks, for use with a scheduler.

Importing this module declares the actor on the broker.  Only a project imports it.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Sequence

import dramatiq

from taskstate import retention
from taskstate.transitions.status import FINISHED
from taskstate.utils.durations import parse_age

logger = logging.getLogger(__name__)

#: How long one message may delete, in seconds.  Then another message continues, so that a worker
#: can stop in time and other messages of the queue are processed.
SECONDS_PER_MESSAGE = 20.0

_OPTIONS: dict[str, Any] = {
    # After that, the next scheduled message continues.
    "max_retries": 3,
    # A retry doesn't make wrong arguments right.
    "throws": ValueError,
    # In milliseconds.  It leaves time for a batch that waits for locks.
    "time_limit": 600_000,
}


def _options() -> dict[str, Any]:
    """Return the options that the broker knows.  Each belongs to a middleware; an actor can't be
    declared with an option of a middleware that is missing."""
    known = dramatiq.get_broker().actor_options
    return {name: value for name, value in _OPTIONS.items() if name in known}


# The name has a prefix because one of django_dramatiq's own actors is called delete_old_tasks.
# Depending on its version, Dramatiq refuses a second actor with a name, or replaces the first one.
@dramatiq.actor(actor_name="taskstate.delete_old_tasks", **_options())
def delete_old_tasks(
    older_than: str = "30d",
    statuses: Sequence[str] = FINISHED,
    batch_size: int = retention.BATCH_SIZE,
) -> None:
    """Delete the tasks that have not changed for some time, in batches.

    After ``SECONDS_PER_MESSAGE`` it sends itself another message for the remaining tasks.

    Parameters:
      older_than(str): The age: ``"90s"``, ``"15m"``, ``"6h"`` or ``"30d"``; at least 60 seconds.
      statuses(Sequence[str]): The statuses of these tasks; by default done, failed and skipped.
      batch_size(int): Rows to delete in one transaction, 1 to 10,000.

    Raises:
      ValueError: If an argument is wrong.  The message is not retried then.
    """
    began_at = time.monotonic()
    try:
        retention.check_batch_size(batch_size)
        tasks = retention.old_tasks(parse_age("older_than", older_than), statuses)
    except ValueError as error:
        # For an exception that is listed in "throws", Dramatiq logs only the type.
        logger.error("Deleted no tasks: %s", error)  # noqa: TRY400
        raise
    deleted = 0
    for count in retention.delete(tasks, batch_size):
        deleted += count
        if time.monotonic() >= began_at + SECONDS_PER_MESSAGE:
            delete_old_tasks.send(older_than, statuses, batch_size)
            break
    logger.info("Deleted %d tasks unchanged for %s", deleted, older_than)
