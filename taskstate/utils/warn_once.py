"""Log records that are written once, not again for each of thousands of similar messages."""

from __future__ import annotations

import logging

from taskstate.utils.log_text import for_log

#: After this many different warnings no more are logged: the names of actors come from outside.
_MAX_WARNED = 1000


class ActorWarnings:
    """Logs each warning once per actor.

    Parameters:
      logger(Logger): The logger to use.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._logged: set[tuple[str, str]] = set()

    def warn(self, actor_name: str, text: str, *values: object) -> None:
        """Log a warning, unless it was logged for this actor before.

        Parameters:
          actor_name(str): The name of the actor, for the first placeholder of ``text``.  It may
            come from outside and be of any length.
          text(str): The warning.
          values: Values for its other placeholders.
        """
        actor_name = for_log(actor_name)
        key = (text, actor_name)
        if key not in self._logged and len(self._logged) < _MAX_WARNED:
            self._logged.add(key)
            self._logger.warning(text, actor_name, *values)


class ErrorsOnce:
    """Logs one error of each kind.

    Parameters:
      logger(Logger): The logger to use.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._logged: set[str] = set()

    def log(self, kind: str, text: str, *values: object, exc_info: bool = False) -> None:
        """Log ``text``, unless an error of this kind was logged before."""
        if kind not in self._logged:
            self._logged.add(kind)
            self._logger.error(text, *values, exc_info=exc_info)

    def clear(self) -> None:
        """Forget what was logged, so that each kind can be logged once more."""
        self._logged.clear()
