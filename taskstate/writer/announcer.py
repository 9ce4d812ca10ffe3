"""Announces what was committed."""

from __future__ import annotations

import logging
from collections import deque
from typing import Callable, Iterable

from taskstate.stores import Change

logger = logging.getLogger(__name__)


class Announcer:
    """Announces each committed change once, in the order of the commits.

    Parameters:
      announce(Callable): Called with a change; it sends ``task_changed``.
    """

    def __init__(self, announce: Callable[[Change], None]) -> None:
        self._announce = announce
        self._unannounced: deque[Change] = deque()
        self._is_announcing = False

    def add(self, changes: Iterable[Change]) -> None:
        """Add changes to be announced."""
        self._unannounced += changes

    def announce_all(self) -> None:
        """Announce the changes that were added.  If a receiver flushes and calls this again, the
        call that is already announcing announces the new changes as well."""
        if self._is_announcing:
            return
        self._is_announcing = True
        try:
            while self._unannounced:
                self._announce_one(self._unannounced.popleft())
        finally:
            self._is_announcing = False

    def _announce_one(self, change: Change) -> None:
        try:
            self._announce(change)
        except BaseException:
            # Even SystemExit or asyncio's CancelledError must not end the thread.
            logger.exception(
                "A receiver of task_changed failed for task %s.", change.pending.latest.message_id
            )
