"""Logs outages and dropped states: one record at the beginning, and one at the end."""

from __future__ import annotations

import logging

from taskstate.stores.errors import Blocker, exc_info, summarize
from taskstate.writer.buffer import Buffer
from taskstate.writer.transition_queue import MAX_PENDING_BYTES

logger = logging.getLogger(__name__)

#: What to do if a table or a column is missing.
MIGRATE = (
    "A table or a column is missing in the tasks' database: run manage.py migrate taskstate, with "
    "--database if DRAMATIQ_TASKS_DATABASE is set."
)


class OutageLog:
    """Logs when the outages of one writer begin and end, and when its buffer drops states.

    Parameters:
      buffer(Buffer): The writer's buffer.
    """

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer
        self._is_outage = False
        self._is_dropping = False
        #: How many states had been dropped when the buffer last drained.
        self._dropped_before = 0

    def flush_failed(self, error: Exception, blocker: Blocker | None) -> None:
        """Log that a flush failed, unless the outage was logged before."""
        if blocker is Blocker.FORBIDDEN:
            logger.debug("Task states can't be written now: %s.", summarize(error))
        elif not self._is_outage:
            self._is_outage = True
            logger.error(
                "Task states can't be written: %s. They are kept, up to %s messages or %s of them, "
                "and written after the outage. %s This is logged once per outage.",
                summarize(error),
                f"{self._buffer.max_pending:,}",
                f"{self._buffer.max_bytes / 1024**2:,.0f} MiB",
                MIGRATE if blocker is Blocker.MISSING else "Check that the database answers.",
                exc_info=exc_info(error),
            )

    def flush_succeeded(self) -> None:
        """Log that an outage has ended, and that the buffer has drained after it dropped states."""
        if self._is_outage:
            self._is_outage = False
            logger.warning(
                "Task states are written again; %s messages still wait.", f"{len(self._buffer):,}"
            )
        if self._is_dropping and self._buffer.is_half_empty:
            self._is_dropping = False
            dropped = self._buffer.dropped - self._dropped_before
            self._dropped_before = self._buffer.dropped
            logger.warning(
                "The task-state buffer has drained; %s states were dropped before.", f"{dropped:,}"
            )

    def check_drops(self) -> None:
        """Log that the buffer has begun to drop states, unless this was logged since it last
        drained."""
        buffer = self._buffer
        if self._is_dropping or buffer.dropped == self._dropped_before:
            return
        self._is_dropping = True
        if buffer.exceeded_setting == MAX_PENDING_BYTES:
            limit = f"{buffer.max_bytes:,} bytes of memory"
            what = f"The messages that wait to be written take more than {limit}"
        else:
            what = f"More than {buffer.max_pending:,} messages wait to be written"
        logger.error(
            "%s, so the oldest states are dropped. Check that the database answers, or raise "
            "TASKSTATE['%s']. This is logged once; when the buffer has drained, the number of "
            "dropped states is logged.",
            what,
            buffer.exceeded_setting,
        )
