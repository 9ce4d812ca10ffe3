"""Reading the row of a task, even while another thread writes to an SQLite database."""

from __future__ import annotations

import re
import time
import uuid
from typing import TYPE_CHECKING

from django.core.exceptions import ValidationError
from django.db import OperationalError

from taskstate.utils.sync import Deadline

if TYPE_CHECKING:
    # pytest may load the fixtures before models can be imported.
    from taskstate.models import Task

#: How long to wait for a lock by default, in seconds, as Python's sqlite3 module does.
LOCK_SECONDS = 5.0

#: The longest pause between two attempts, in seconds.
PAUSE_SECONDS = 0.05

#: SQLite's errors for a lock on the file or, within a shared cache, on a table or the schema.  The
#: latter are raised at once, whatever the timeout of the connection.
_LOCKED = re.compile(r"database (table |schema )?is locked")


def find_task(key: uuid.UUID | str, seconds: float = LOCK_SECONDS) -> Task | None:
    """Return the row with an id, or None.  Try again while SQLite reports a lock.

    Parameters:
      key: The id of the message.
      seconds(float): How long to try.

    Raises:
      OperationalError: If SQLite still reports a lock after that time.  Any other error of the
        database is raised at once.
    """
    from taskstate.models import Task

    deadline = Deadline(seconds)
    while True:
        try:
            return Task.objects.filter(pk=key).first()
        except ValidationError:  # An id that is not a UUID: such a message is not tracked.
            return None
        except OperationalError as error:
            if not is_locked(error) or not deadline.left():
                raise
        time.sleep(min(PAUSE_SECONDS, deadline.left()))


def is_locked(error: OperationalError) -> bool:
    """Return whether SQLite reports that another connection holds a lock."""
    return _LOCKED.match(str(error)) is not None
