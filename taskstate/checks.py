"""System checks: what is wrong with the settings, the offending value, and the cure."""

from __future__ import annotations

from typing import Any, Collection

from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as CheckWarning
from django.db import connections
from django.utils.module_loading import import_string

from . import conf
from .middleware import StateMiddleware

MIDDLEWARE_PATH = "taskstate.middleware.StateMiddleware"


def check_settings(**_: Any) -> list[CheckMessage]:
    """Check everything that this app reads from the settings."""
    return [*_check_middleware(), *_check_options(), *_check_database()]


def check_store(databases: Collection[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Check that the store which ``TASKSTATE`` asks for can be had, if the database may be asked:
    by ``migrate``, or ``check --database``."""
    alias = conf.tasks_database()
    raw = conf.raw_settings()
    is_asked_for = isinstance(raw, dict) and raw.get("STORE") == "upsert"
    if not is_asked_for or alias not in (databases or ()):
        return []
    # Here, because models can't be imported before the apps are ready.
    from .stores.choice import find_obstacle

    obstacle = find_obstacle(alias)
    if obstacle is None:
        return []
    text = f"TASKSTATE: STORE is 'upsert', but {obstacle.reason}."
    return [Error(text, hint=obstacle.cure, id="taskstate.E008")]


def check_tables(databases: Collection[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Check that the tables are not those of the other project that PyPI has under this name, up to
    0.3.4: the names of its app, its table and its first migration are the same."""
    alias = conf.tasks_database()
    if alias not in (databases or ()) or alias not in settings.DATABASES:
        return []
    introspection = connections[alias].introspection
    with connections[alias].cursor() as cursor:
        if "taskstate_task" not in introspection.table_names(cursor):
            return []
        columns = {c.name for c in introspection.get_table_description(cursor, "taskstate_task")}
    if "message_data" not in columns:
        return []
    return [
        Error(
            f"The table 'taskstate_task' in the database {alias!r} was made by another project's "
            "dramatiq-taskstate, 0.3.4 or earlier, which has the same names.",
            hint='The README has the commands, under "Upgrading from 0.3.4": either install '
            "0.3.4 again and run 'manage.py migrate taskstate zero', which drops its tasks, or "
            "rename its table and keep them.",
            id="taskstate.E009",
        )
    ]


def _check_middleware() -> list[CheckMessage]:
    broker = getattr(settings, "DRAMATIQ_BROKER", {})
    listed = broker.get("MIDDLEWARE", []) if isinstance(broker, dict) else []
    ours = [entry for entry in listed if _is_ours(entry)]
    if not ours:
        return [
            CheckWarning(
                f"StateMiddleware is missing from DRAMATIQ_BROKER['MIDDLEWARE']: {listed!r}. "
                "No task is tracked.",
                hint=f"Add {MIDDLEWARE_PATH!r} to it, at any position.",
                id="taskstate.W001",
            )
        ]
    if len(ours) > 1:
        return [
            Error(
                f"StateMiddleware is listed {len(ours)} times in DRAMATIQ_BROKER['MIDDLEWARE']: "
                f"{ours!r}. Each would count a message's hops.",
                hint="Keep one of them.",
                id="taskstate.E002",
            )
        ]
    return []


def _is_ours(entry: object) -> bool:
    """Whether an entry of the list, an instance or a dotted path, is a ``StateMiddleware``."""
    if not isinstance(entry, str):
        return isinstance(entry, StateMiddleware)
    try:
        entry = import_string(entry)
    except ImportError:
        return False  # django_dramatiq reports it.
    return isinstance(entry, type) and issubclass(entry, StateMiddleware)


def _check_options() -> list[CheckMessage]:
    return [
        Error(f"TASKSTATE: {problem.message}", hint=problem.hint, id=f"taskstate.{problem.code}")
        for problem in conf.find_problems(conf.raw_settings())
    ]


def _check_database() -> list[CheckMessage]:
    alias = conf.tasks_database()
    if alias not in settings.DATABASES:
        known = ", ".join(repr(name) for name in settings.DATABASES)
        return [
            Error(
                f"DRAMATIQ_TASKS_DATABASE is {alias!r}, which is no alias in DATABASES.",
                hint=f"Set it to one of {known}, or add that alias to DATABASES.",
                id="taskstate.E005",
            )
        ]
    # Here, because models can't be imported before the apps are ready.
    from .stores.watermark import VENDORS

    connection = connections[alias]
    if connection.vendor in VENDORS:
        return []
    return [
        Error(
            f"Tasks can't be written to the database {alias!r}: it is {connection.display_name}.",
            hint="Point DRAMATIQ_TASKS_DATABASE at PostgreSQL, MariaDB, MySQL or SQLite.",
            id="taskstate.E007",
        )
    ]
