"""The settings: their names, ranges and defaults, read live.  Nothing else reads settings.

A bad value never stops a worker: the default takes its place, and the error is logged once
(``manage.py check`` reports it too).  Given to ``StateMiddleware`` as an argument, it raises.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import math
from typing import Any, Mapping, Union

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

logger = logging.getLogger("taskstate")

Value = Union[bool, int, float]


@dataclasses.dataclass(frozen=True)
class Config:
    """The values in force.  Each field is a key of ``TASKSTATE`` in lower case."""

    #: Under load, at most one flush per so many seconds in a process.
    flush_interval: float = 0.5
    #: How many rows one statement writes at most; so many pending don't wait for the interval.
    max_batch_size: int = 1000
    #: How many messages a process keeps through an outage.
    max_pending: int = 100_000
    #: How many seconds the last flush of a process may take.
    shutdown_timeout: float = 10.0
    #: Write each transition at once, in the calling thread: for tests.
    synchronous: bool = False


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is wrong with a setting, and its cure."""

    key: str
    message: str
    hint: str
    unknown: bool = False


#: Key to (smallest, greatest, unit).
_RANGES: dict[str, tuple[float, float, str]] = {
    "FLUSH_INTERVAL": (0, 3600, "seconds"),
    "MAX_BATCH_SIZE": (1, 10_000, "rows"),
    "MAX_PENDING": (1, 10_000_000, "messages"),
    "SHUTDOWN_TIMEOUT": (0, 3600, "seconds"),
}
DEFAULTS: dict[str, Value] = {
    name.upper(): value for name, value in dataclasses.asdict(Config()).items()
}

_reported: dict[str, str] = {}


def find_problem(key: str, value: object) -> Problem | None:
    """Return what is wrong with ``value`` as the value of ``key``, or None."""
    if key not in DEFAULTS:
        return _unknown(key)
    default = DEFAULTS[key]
    if isinstance(default, bool):
        if isinstance(value, bool):
            return None
        return Problem(key, f"{key} is {value!r}.", "Set it to True or False.")
    smallest, greatest, unit = _RANGES[key]
    whole = isinstance(default, int)
    kind = "a whole number" if whole else "a number"
    cure = (
        f"Set it to {kind} of {unit} from {smallest:,} to {greatest:,}; the default is {default}."
    )
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        return Problem(key, f"{key} is {value!r}, which is not {kind}.", cure)
    if not math.isfinite(value) or not smallest <= value <= greatest:
        return Problem(key, f"{key} is {value!r}, which is out of range.", cure)
    return None


def _unknown(key: str) -> Problem:
    nearest = difflib.get_close_matches(str(key).upper(), DEFAULTS, n=1, cutoff=0)[0]
    cure = f"Did you mean {nearest!r}? The keys are {', '.join(DEFAULTS)}."
    return Problem(str(key), f"{key!r} is no key of TASKSTATE.", cure, unknown=True)


def find_problems(raw: Mapping[Any, object]) -> list[Problem]:
    """Return what is wrong with a ``TASKSTATE`` dictionary."""
    found = (find_problem(key, value) for key, value in raw.items())
    return [problem for problem in found if problem is not None]


class Options:
    """The settings as one middleware sees them: its own arguments win.

    Raises:
      ImproperlyConfigured: If an argument is of the wrong type or out of range.
    """

    def __init__(self, **overrides: Value | None) -> None:
        given = {key: value for key, value in overrides.items() if value is not None}
        for name, value in given.items():
            problem = find_problem(name.upper(), value)
            if problem is not None:
                raise ImproperlyConfigured(
                    f"StateMiddleware({name}={value!r}): {problem.message} {problem.hint}"
                )
        self._overrides: dict[str, Any] = given
        self._seen: dict[Any, object] | None = None
        self._config = Config()

    def __call__(self) -> Config:
        """Return the values in force now.  Cheap enough for every push."""
        raw = raw_settings()
        if raw != self._seen:
            self._config = dataclasses.replace(_usable(raw), **self._overrides)
            self._seen = dict(raw)
        return self._config


def raw_settings() -> Mapping[Any, object]:
    """Return the ``TASKSTATE`` dictionary as it stands in the settings."""
    raw = getattr(settings, "TASKSTATE", {})
    if isinstance(raw, dict):
        return raw
    _report("TASKSTATE", f"TASKSTATE is {raw!r}, which is not a dictionary; defaults are used.")
    return {}


def tasks_database() -> str:
    """Return the alias of the database that holds the tasks: django_dramatiq's own setting."""
    alias: str = getattr(settings, "DRAMATIQ_TASKS_DATABASE", "default")
    return alias


def _usable(raw: Mapping[Any, object]) -> Config:
    values: dict[str, Any] = {}
    for key, value in raw.items():
        problem = find_problem(key, value)
        if problem is None:
            values[key.lower()] = value
        else:
            _report(problem.key, f"TASKSTATE: {problem.message} {problem.hint}")
    return Config(**values)


def _report(key: str, message: str) -> None:
    if _reported.get(key) != message:
        _reported[key] = message
        logger.error("%s", message)
