"""The ``TASKSTATE`` setting: its keys, ranges and defaults.  Nothing else reads it.

It is read once, and again when Django says that it has changed: ``override_settings`` does.

The system checks refuse a bad value.  A process that runs no checks logs it once, and takes the
default.  Given to ``StateMiddleware`` as an argument, it raises.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
from typing import Any, Union

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

logger = logging.getLogger(__name__)

Value = Union[bool, int, float, str]


@dataclasses.dataclass(frozen=True)
class Config:
    """The values in force.  Each field is a key of ``TASKSTATE`` in lower case."""

    #: Under load, a process flushes at most once in this many seconds.
    flush_interval: float = 0.5
    #: Rows in a batch at most; as soon as this many wait, they don't wait for the interval.
    max_batch_size: int = 1000
    #: How many messages a process keeps through an outage.
    max_pending: int = 100_000
    #: How many seconds the last flush of a process may take.
    shutdown_timeout: float = 10.0
    #: Acknowledge a tracked message only when its final state is committed.
    flush_before_ack: bool = False
    #: Write each transition at once, in the calling thread: for tests.
    synchronous: bool = False
    #: Keep the message with its task, arguments and all, so that it can be sent again.
    store_message: bool = False
    #: How rows are written: one of ``STORES``.
    store: str = "auto"


#: One statement wherever the database allows, else the ORM; the ORM; one statement.
STORES = ("auto", "orm", "upsert")


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is wrong with a setting, and its cure."""

    key: str
    message: str
    hint: str
    #: The last part of the id of its system check.
    code: str = "E004"


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
        return None if isinstance(value, bool) else _not_one_of(key, value, (True, False))
    if isinstance(default, str):
        return None if value in STORES else _not_one_of(key, value, STORES)
    return _find_problem_of_number(key, value, default)


def _not_one_of(key: str, value: object, choices: tuple[Value, ...]) -> Problem:
    *names, last = [repr(choice) for choice in choices]
    return Problem(key, f"{key} is {value!r}.", f"Set it to {', '.join(names)} or {last}.")


def _find_problem_of_number(key: str, value: object, default: float) -> Problem | None:
    smallest, greatest, unit = _RANGES[key]
    whole = isinstance(default, int)
    kind = "a whole number" if whole else "a number"
    cure = (
        f"Set it to {kind} of {unit} from {smallest:,} to {greatest:,}; the default is {default:,}."
    )
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        return Problem(key, f"{key} is {value!r}, which is not {kind}.", cure)
    if not smallest <= value <= greatest:
        return Problem(key, f"{key} is {value!r}, which is out of range.", cure)
    return None


def _unknown(key: str) -> Problem:
    nearest = difflib.get_close_matches(str(key).upper(), DEFAULTS, n=1, cutoff=0)[0]
    cure = f"Did you mean {nearest!r}? The keys are {', '.join(DEFAULTS)}."
    return Problem(str(key), f"{key!r} is no key of TASKSTATE.", cure, code="E003")


def find_problems(raw: object) -> list[Problem]:
    """Return what is wrong with the value of ``TASKSTATE``."""
    if not isinstance(raw, dict):
        cure = f"Make it a dictionary; its keys are {', '.join(DEFAULTS)}."
        return [Problem("TASKSTATE", f"it is {raw!r}, which is not a dictionary.", cure, "E006")]
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
        self._seen: int | None = None
        self._config = Config()

    def __call__(self) -> Config:
        """Return the values in force now."""
        count = changes.count
        if self._seen != count:
            self._config = dataclasses.replace(_usable(raw_settings()), **self._overrides)
            # Last, since an exception may be injected anywhere.
            self._seen = count
        return self._config


class _Changes:
    """Tells whether what was read is still in force."""

    #: How often Django has said that the setting is another one.
    count = 0


changes = _Changes()


def _note_change(*, setting: str, **_: Any) -> None:
    if setting == "TASKSTATE":
        changes.count += 1


setting_changed.connect(_note_change)


def raw_settings() -> object:
    """Return the value of ``TASKSTATE`` as it stands in the settings."""
    return getattr(settings, "TASKSTATE", {})


def tasks_database() -> str:
    """Return the alias of the database that holds the tasks: django_dramatiq's own setting."""
    alias: str = getattr(settings, "DRAMATIQ_TASKS_DATABASE", "default")
    return alias


def _usable(raw: object) -> Config:
    """Return the good values of ``TASKSTATE``; what is wrong with others is logged, once."""
    problems = find_problems(raw)
    for problem in problems:
        message = f"TASKSTATE: {problem.message} {problem.hint}"
        if _reported.get(problem.key) != message:
            _reported[problem.key] = message
            logger.error("%s", message)
    bad = {problem.key for problem in problems}
    values: dict[str, Any] = raw if isinstance(raw, dict) else {}
    return Config(**{key.lower(): values[key] for key in DEFAULTS if key in values.keys() - bad})
