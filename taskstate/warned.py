"""Warnings that are given once per actor: what is wrong with one message is so with thousands."""

from __future__ import annotations

import logging

#: So many are remembered, and no more are given: names of actors come from outside.
_MAX_WARNED = 1000


class ActorWarnings:
    """Warns once per actor and kind.

    Parameters:
      logger(Logger): Where to.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._given: set[tuple[str, str]] = set()

    def warn(self, actor_name: str, text: str, *details: object) -> None:
        """Log ``text``, whose first placeholder is the actor, unless that was done."""
        key = (text, actor_name)
        if key not in self._given and len(self._given) < _MAX_WARNED:
            self._given.add(key)
            self._logger.warning(text, actor_name, *details)
