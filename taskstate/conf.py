"""The settings of this app: their keys, defaults and valid values.

Only this module reads ``TASKSTATE`` and ``DRAMATIQ_TASKS_DATABASE``.  It also says whether the app
is installed.

Settings are read when they are first needed.  They are read again when Django sends
``setting_changed``, as ``override_settings`` makes it do, and when the tasks' database is a
different one.

The system checks report each invalid value.  In a process that runs no checks, it is logged once,
and the default is used.  An invalid argument of ``StateMiddleware`` raises
``ImproperlyConfigured``.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import logging
from typing import TYPE_CHECKING, Any, Callable, Sequence, Union
from weakref import WeakSet

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.db import connections
from django.db.utils import load_backend
from django.utils.module_loading import import_string

from taskstate.utils.documentation import see

logger = logging.getLogger(__name__)

Value = Union[bool, int, float, str, Sequence[str], Callable[..., Any], None]


@dataclasses.dataclass(frozen=True)
class Config:
    """The values of all settings.  Each field is a key of ``TASKSTATE`` in lower case."""

    #: Under load, a process flushes at most once per this many seconds.
    flush_interval: float = 0.5
    #: The most rows in a batch.  A full batch is flushed without waiting for the interval.
    max_batch_size: int = 1000
    #: The most messages that a process keeps pending, during an outage for example.
    max_pending: int = 100_000
    #: About how much memory the pending messages may take, in bytes.
    max_pending_bytes: int = 256 * 1024 * 1024
    #: How many seconds the last flush of a process may take.
    shutdown_timeout: float = 10.0
    #: Acknowledge a tracked message only after its final state is committed.
    flush_before_ack: bool = False
    #: Write each transition at once, in the calling thread; for tests.  If the setting is absent,
    #: it is on for an SQLite database in memory.
    synchronous: bool = False
    #: Store each message with its task, including its arguments, so that it can be sent again.
    keep_message: bool = False
    #: How rows are written: one of ``STORES``.
    store: str = "auto"
    #: A function without arguments that returns the name of the current tenant, or its dotted
    #: path.
    tenant: str | Callable[[], str] | None = None
    #: A function that takes a request and returns the tasks that its user may see, or its dotted
    #: path.
    visible_tasks: str | Callable[..., Any] | None = None
    #: A function that takes an exception and returns the text that users may read, or its dotted
    #: path.
    user_error: str | Callable[..., Any] | None = None
    #: Dotted paths of the encoders that may decode stored messages, besides Dramatiq's
    #: ``JSONEncoder``.
    trusted_encoders: Sequence[str] = ()
    #: The most streams of server-sent events that a process serves at once.
    max_streams: int = 200


#: "orm" writes with Django's ORM, "upsert" writes each batch with one statement, and "auto" takes
#: "upsert" if the database supports it.
STORES = ("auto", "orm", "upsert")


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is wrong with a setting, and how to correct it."""

    key: str
    message: str
    hint: str
    #: The last part of the id of its system check.
    code: str = "E004"


#: Maps a key to its smallest value, its greatest value, and their unit.
_RANGES: dict[str, tuple[float, float, str]] = {
    "FLUSH_INTERVAL": (0, 3600, "seconds"),
    "MAX_BATCH_SIZE": (1, 10_000, "rows"),
    "MAX_PENDING": (1, 10_000_000, "messages"),
    # At least the size of two of the largest messages; at most a tebibyte.
    "MAX_PENDING_BYTES": (1024**2, 1024**4, "bytes"),
    "SHUTDOWN_TIMEOUT": (0, 3600, "seconds"),
    "MAX_STREAMS": (0, 10_000, "streams"),
}
#: Maps a key to the arguments that its function takes, and an example of its dotted path.
_FUNCTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "TENANT": ((), "mysite.tenants.current_tenant"),
    "VISIBLE_TASKS": (("the request",), "mysite.tasks.visible_tasks"),
    "USER_ERROR": (("the exception",), "mysite.tasks.user_error"),
}
_ENCODERS_HINT = (
    "Set it to a list of the dotted paths of encoder classes, such as ['mysite.encoders.Encoder']."
)
DEFAULTS: dict[str, Value] = {
    name.upper(): value for name, value in dataclasses.asdict(Config()).items()
}

_OPTION_NAMES = frozenset({*(field.name for field in dataclasses.fields(Config)), "app_is_missing"})

#: For type checkers, ``Options`` has the fields of ``Config``.
if TYPE_CHECKING:
    _OptionValues = Config
else:
    _OptionValues = object

#: Maps a key to what was last logged about it.
_logged: dict[str, str] = {}


def find_problem(key: str, value: object) -> Problem | None:
    """Return what is wrong with ``value`` as the value of ``key``; None if it is valid."""
    if key not in DEFAULTS:
        return _unknown_key(key)
    if key in _FUNCTIONS:
        return _find_function_problem(key, value)
    if key == "TRUSTED_ENCODERS":
        return _find_encoders_problem(value)
    default: Any = DEFAULTS[key]
    if isinstance(default, bool):
        return None if isinstance(value, bool) else _invalid_choice(key, value, (True, False))
    if isinstance(default, str):
        return None if value in STORES else _invalid_choice(key, value, STORES)
    return _find_number_problem(key, value, default)


def _invalid_choice(key: str, value: object, choices: tuple[Value, ...]) -> Problem:
    *names, last = [repr(choice) for choice in choices]
    return Problem(key, f"{key} is {value!r}.", f"Set it to {', '.join(names)} or {last}.")


def _find_number_problem(key: str, value: object, default: float) -> Problem | None:
    smallest, greatest, unit = _RANGES[key]
    is_whole = isinstance(default, int)
    kind = "a whole number" if is_whole else "a number"
    hint = (
        f"Set it to {kind} of {unit} from {smallest:,} to {greatest:,}; the default is {default:,}."
    )
    if isinstance(value, bool) or not isinstance(value, int if is_whole else (int, float)):
        return Problem(key, f"{key} is {value!r}, which is not {kind}.", hint)
    if not smallest <= value <= greatest:
        return Problem(key, f"{key} is {value!r}, which is out of range.", hint)
    return None


def _find_function_problem(key: str, value: object) -> Problem | None:
    """Check the type of the value only.  ``FunctionSetting`` imports the function that it names."""
    if value is None or isinstance(value, str) or callable(value):
        return None
    text = f"{key} is {value!r}, which is neither a function nor the dotted path of one."
    return Problem(key, text, _function_hint(key))


def _function_hint(key: str) -> str:
    arguments, example = _FUNCTIONS[key]
    takes = f"one argument, {arguments[0]}" if arguments else "no arguments"
    return f"Set it to the dotted path of a function that takes {takes}, such as {example!r}."


def _find_encoders_problem(value: object) -> Problem | None:
    """Check the type of the list only.  ``import_encoder`` imports the classes that it names."""
    if isinstance(value, (list, tuple)) and all(isinstance(path, str) for path in value):
        return None
    text = f"TRUSTED_ENCODERS is {value!r}, which is not a list of dotted paths."
    return Problem("TRUSTED_ENCODERS", text, _ENCODERS_HINT)


def _unknown_key(key: str) -> Problem:
    nearest = difflib.get_close_matches(str(key).upper(), DEFAULTS, n=1, cutoff=0)[0]
    hint = f"Did you mean {nearest!r}? The keys are {', '.join(DEFAULTS)}."
    return Problem(str(key), f"{key!r} is not a key of TASKSTATE.", hint, code="E003")


def find_problems(raw: object) -> list[Problem]:
    """Return everything that is wrong with a value of ``TASKSTATE``."""
    if not isinstance(raw, dict):
        hint = f"Set it to a dictionary with any of the keys {', '.join(DEFAULTS)}."
        text = f"The setting is {raw!r}, which is not a dictionary."
        return [Problem("TASKSTATE", text, hint, "E006")]
    found = (find_problem(key, value) for key, value in raw.items())
    return [problem for problem in found if problem is not None]


class Options(_OptionValues):
    """The settings of one middleware, always current.

    Each field of ``Config`` is an attribute.  All of them are read when the first one is needed,
    and again after the settings have changed.  In between, each is a plain attribute.

    Parameters:
      overrides: The arguments of the middleware, which take precedence over ``TASKSTATE``.  None is
        the same as no argument.

    Raises:
      ImproperlyConfigured: If an argument is of the wrong type or out of range.
    """

    #: Whether the app is missing from ``INSTALLED_APPS``.
    app_is_missing: bool

    def __init__(self, **overrides: Value | None) -> None:
        given = {key: value for key, value in overrides.items() if value is not None}
        for name, value in given.items():
            problem = find_problem(name.upper(), value)
            if problem is not None:
                raise ImproperlyConfigured(
                    f"StateMiddleware({name}={value!r}): {problem.message} {problem.hint}"
                )
        self._overrides: dict[str, Any] = given
        _state.options.add(self)

    def __getattr__(self, name: str) -> Any:
        """Read all options.  Python calls this only if the instance has no attribute ``name``."""
        if name not in _OPTION_NAMES:
            raise AttributeError(f"'Options' object has no attribute {name!r}")
        changes = _state.changes
        given = {**_valid_values(raw_settings()), **self._overrides}
        if "synchronous" not in given:
            given["synchronous"] = _is_synchronous_by_default()
        options = {**vars(Config(**given)), "app_is_missing": is_installed() is False}
        if apps.apps_ready:  # Before that, the app may still be added.
            self.__dict__.update(options)
            if changes != _state.changes:  # Another thread has changed them meanwhile.
                self.forget()
        return options[name]

    def forget(self) -> None:
        """Forget all options, so that the next access reads them again."""
        for name in _OPTION_NAMES:
            self.__dict__.pop(name, None)


class FunctionSetting:
    """A key of ``TASKSTATE`` whose value is a function, or the dotted path of one.

    The function is imported when it is first needed, since settings are read before models can be
    imported, and again after the setting has changed.

    Parameters:
      key(str): The key.
    """

    #: The function; None if the key is not set.  If it can't be imported, calling it raises an
    #: ``ImproperlyConfigured`` that says why, and what to do.  Hooks read this for each message:
    #: ``__getattr__`` stores it in the instance, where Python finds it the next time.
    function: Callable[..., Any] | None

    def __init__(self, key: str) -> None:
        self.key = key
        setting_changed.connect(self._forget)

    def __getattr__(self, name: str) -> Any:
        if name != "function":
            raise AttributeError(name)
        value = given_settings().get(self.key)
        if not value:
            self.function = None
            return None
        problem = self.find_problem(value)
        if problem is not None:
            text = f"TASKSTATE: {problem.message} {problem.hint}"
            function: Callable[..., Any] = functools.partial(_raise, text)
            if not apps.models_ready:
                return function  # Once models are loaded, it may be importable.
        else:
            function = import_string(value) if isinstance(value, str) else value
        self.function = function
        return function

    def find_problem(self, value: object) -> Problem | None:
        """Return why a value is not a function that can be called, or the dotted path of one.
        Return None if it is."""
        problem = find_problem(self.key, value)
        if problem is not None or not value:
            return problem
        hint = _function_hint(self.key)
        function = value
        if isinstance(value, str):
            try:
                function = import_string(value)
            except Exception as error:  # noqa: BLE001 - whatever the module raises
                text = f"{self.key} is {value!r}, which can't be imported ({error})."
                return Problem(self.key, text, hint)
            if not callable(function):
                kind = type(function).__name__
                text = f"{self.key} is {value!r}, which is of type {kind} and can't be called."
                return Problem(self.key, text, hint)
        if not _accepts(function, len(_FUNCTIONS[self.key][0])):
            text = f"{self.key} is {value!r}, which takes other arguments."
            return Problem(self.key, text, hint)
        return None

    def _forget(self, *, setting: str, **_: Any) -> None:
        if setting == "TASKSTATE":
            self.__dict__.pop("function", None)


def _raise(text: str, *_: object) -> None:
    raise ImproperlyConfigured(text)


def _accepts(function: Any, arguments: int) -> bool:
    """Return whether a function can be called with this many arguments.  True for a function
    without a signature, such as some of those written in C."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*range(arguments))
    except TypeError:
        return False
    return True


TENANT = FunctionSetting("TENANT")
VISIBLE_TASKS = FunctionSetting("VISIBLE_TASKS")
USER_ERROR = FunctionSetting("USER_ERROR")


def import_encoder(path: str) -> type | Problem:
    """Return the class that an entry of ``TRUSTED_ENCODERS`` names, or what is wrong with the
    entry."""
    try:
        found = import_string(path)
    except Exception as error:  # noqa: BLE001 - whatever the module raises
        reason = f"can't be imported ({error})"
    else:
        if isinstance(found, type):
            return found
        reason = f"is of type {type(found).__name__} and not a class"
    text = f"TRUSTED_ENCODERS names {path!r}, which {reason}."
    return Problem("TRUSTED_ENCODERS", text, _ENCODERS_HINT, code="E024")


def trusted_encoders() -> list[type]:
    """Return the classes that ``TRUSTED_ENCODERS`` names.  An entry that names no class is logged
    once and left out."""
    found = [
        import_encoder(path) for path in _valid_values(raw_settings()).get("trusted_encoders", ())
    ]
    for each in found:
        if isinstance(each, Problem):
            _log_once(logging.ERROR, each.key, f"TASKSTATE: {each.message} {each.hint}")
    return [each for each in found if isinstance(each, type)]


class _State:
    """The state of this module.  No other module changes it."""

    def __init__(self) -> None:
        #: All options objects.  They read the settings again after a change.
        self.options: WeakSet[Options] = WeakSet()
        #: How many times the settings have changed.
        self.changes = 0
        #: The entry of the tasks' database in ``DATABASES``, and its name, at the last check.
        self.database: tuple[Any, Any] = (None, None)


_state = _State()


def _forget_options() -> None:
    _state.changes += 1
    for options in list(_state.options):
        options.forget()


def check_database() -> None:
    """Let all options be read again if the tasks' database is not the same as at the last call.
    Test runners change its name, and Django sends no signal for that."""
    database = connections.settings.get(tasks_database(), {})
    checked, name = _state.database
    if database is not checked or database.get("NAME") != name:
        _forget_options()
        _state.database = (database, database.get("NAME"))


def _on_setting_changed(*, setting: str, **_: Any) -> None:
    if setting in {"TASKSTATE", "INSTALLED_APPS"}:
        _forget_options()


setting_changed.connect(_on_setting_changed)


def raw_settings() -> object:
    """Return the value of ``TASKSTATE``, whatever it is."""
    return getattr(settings, "TASKSTATE", {})


def given_settings() -> dict[str, Any]:
    """Return ``TASKSTATE``, or an empty dictionary if it is not a dictionary, which a system check
    reports."""
    raw = raw_settings()
    return raw if isinstance(raw, dict) else {}


def tasks_database() -> str:
    """Return the alias of the database that holds the tasks.  The setting is django_dramatiq's."""
    alias: str = getattr(settings, "DRAMATIQ_TASKS_DATABASE", "default")
    return alias


def is_in_memory() -> bool:
    """Return whether the tasks are in an SQLite database in memory, as they are in the tests of
    many projects."""
    database = connections.settings.get(tasks_database(), {})
    try:
        # The class alone: a connection would have to be created in each thread.
        backend: Any = load_backend(database["ENGINE"]).DatabaseWrapper
        is_sqlite = backend.vendor == "sqlite"
        return is_sqlite and bool(backend.creation_class.is_in_memory_db(database["NAME"]))
    except (ImproperlyConfigured, KeyError):  # The system checks report it.
        return False


def _is_synchronous_by_default() -> bool:
    """Return whether transitions are written in the calling thread if ``SYNCHRONOUS`` is absent.
    They are in an SQLite database in memory, where threads can't be isolated from each other."""
    if not is_in_memory():
        return False
    _log_once(
        logging.DEBUG,
        "SYNCHRONOUS",
        f"The tasks' database {tasks_database()!r} is an SQLite database in memory, so each state "
        "is written at once, in the calling thread. To write in a background thread, set TASKSTATE "
        "= {'SYNCHRONOUS': False}.",
    )
    return True


def is_installed() -> bool | None:
    """Return whether the app is in ``INSTALLED_APPS``; None before Django has loaded the apps."""
    return apps.is_installed("taskstate") if apps.apps_ready else None


def log_missing_app() -> None:
    """Log once that no task is tracked, because the app is not installed."""
    _log_once(logging.ERROR, "INSTALLED_APPS", f"{MISSING_APP} {MISSING_APP_HINT}")


MISSING_APP = (
    "'taskstate' is missing from INSTALLED_APPS, although StateMiddleware is among the broker's "
    "middleware. No task is tracked; messages are processed as usual."
)
MISSING_APP_HINT = (
    "Add 'taskstate' to INSTALLED_APPS and run manage.py migrate taskstate, or remove "
    "StateMiddleware from DRAMATIQ_BROKER['MIDDLEWARE']. "
    + see("docs/troubleshooting.md#a-task-is-missing")
)


def check_app(**_: Any) -> list[CheckMessage]:
    """Check that the app is installed, since its middleware is used."""
    if is_installed() is not False:
        return []
    return [Error(MISSING_APP, hint=MISSING_APP_HINT, id="taskstate.E001")]


def register_app_check() -> None:
    """Register ``check_app``.

    Each middleware does so when it is created, since an app that is not installed can't register
    the check itself.  To register it again has no effect.
    """
    register(check_app)


def _log_once(level: int, key: str, message: str) -> None:
    if _logged.get(key) != message:
        _logged[key] = message
        logger.log(level, "%s", message)


def _valid_values(raw: object) -> dict[str, Any]:
    """Return the valid values of ``TASKSTATE``, by the names of their fields in ``Config``.  Log
    once what is wrong with each other value."""
    problems = find_problems(raw)
    for problem in problems:
        message = f"TASKSTATE: {problem.message} {problem.hint}"
        _log_once(logging.ERROR, problem.key, message)
    invalid = {problem.key for problem in problems}
    values: dict[str, Any] = raw if isinstance(raw, dict) else {}
    return {key.lower(): values[key] for key in DEFAULTS if key in values.keys() - invalid}
