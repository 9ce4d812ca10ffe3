"""An actor that deletes old tasks, for a scheduler.

Importing this module declares it on the broker; nothing imports it unless a project does.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Sequence

import dramatiq

from . import retention
from .times import parse_age
from .transitions import FINISHED

logger = logging.getLogger(__name__)

#: How long one message deletes, in seconds; then the next message goes on.  A worker that is told
#: to stop waits no longer than that, and other messages of the queue get their turn.
SECONDS_PER_MESSAGE = 20.0

_OPTIONS: dict[str, Any] = {
    # The next one that is scheduled goes on where this one has failed.
    "max_retries": 3,
    # Wrong arguments don't become right ones.
    "throws": ValueError,
    # In milliseconds; far beyond, for one batch that has to wait.
    "time_limit": 600_000,
}


def _options() -> dict[str, Any]:
    """Return the options that the broker knows: each belongs to a middleware, and an actor with one
    of a middleware that is not there can't be declared."""
    known = dramatiq.get_broker().actor_options
    return {name: value for name, value in _OPTIONS.items() if name in known}


# One of django_dramatiq's own actors is called delete_old_tasks. Of two with a name, Dramatiq
# refuses the second, or lets it win without a word, by its version.
@dramatiq.actor(actor_name="taskstate.delete_old_tasks", **_options())
def delete_old_tasks(
    older_than: str = "30d",
    statuses: Sequence[str] = FINISHED,
    batch_size: int = retention.BATCH_SIZE,
) -> None:
    """Delete the tasks that have not changed for an age, in batches.

    After ``SECONDS_PER_MESSAGE`` it sends itself again for the rest.

    Parameters:
      older_than(str): The age: ``"90s"``, ``"15m"``, ``"6h"`` or ``"30d"``; at least 60 seconds.
      statuses(Sequence[str]): Which ones; by default those that are done, failed or skipped.
      batch_size(int): Rows in a transaction, 1 to 10,000.

    Raises:
      ValueError: If an argument is wrong; that is not tried again.
    """
    began_at = time.monotonic()
    try:
        retention.check_batch_size(batch_size)
        tasks = retention.old_tasks(parse_age("older_than", older_than), statuses)
    except ValueError as error:
        # Of an exception that is in "throws", Dramatiq logs no more than the type.
        logger.error("Deleted no tasks: %s", error)  # noqa: TRY400
        raise
    deleted = 0
    for count in retention.delete(tasks, batch_size):
        deleted += count
        if time.monotonic() >= began_at + SECONDS_PER_MESSAGE:
            delete_old_tasks.send(older_than, statuses, batch_size)
            break
    logger.info("Deleted %d tasks unchanged for %s", deleted, older_than)
