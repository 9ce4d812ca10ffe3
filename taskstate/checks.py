"""System checks.  Each message names the setting, its value, and what to do.

A hint ends with the section of the documentation that describes what the check finds, if any.
"""

from __future__ import annotations

from typing import Any, Collection

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as CheckWarning
from django.db import connections
from django.utils.module_loading import import_string

from taskstate import conf
from taskstate.middleware import StateMiddleware
from taskstate.utils.documentation import see

MIDDLEWARE_PATH = "taskstate.middleware.StateMiddleware"


def check_settings(**_: Any) -> list[CheckMessage]:
    """Check all settings that this app reads."""
    return [
        *_check_middleware(),
        *_check_options(),
        *_check_functions(),
        *_check_encoders(),
        *_check_database(),
        *_check_tenants(),
    ]


def check_store(databases: Collection[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Check that the database supports the store that ``TASKSTATE`` requires.

    It queries the database, so it only runs with ``migrate`` and ``check --database``.
    """
    alias = conf.tasks_database()
    is_required = conf.given_settings().get("STORE") == "upsert"
    if not is_required or alias not in (databases or ()):
        return []
    # Here, because models can't be imported before the apps are ready.
    from taskstate.stores.selection import find_obstacle

    obstacle = find_obstacle(alias)
    if obstacle is None:
        return []
    text = f"TASKSTATE: STORE is 'upsert', but {obstacle.reason}."
    return [Error(text, hint=obstacle.hint, id="taskstate.E008")]


def check_tables(databases: Collection[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Check that the tables are not those of the other project that was released under this name,
    up to 0.3.4: the names of its app, its table and its first migration are the same."""
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
            f"The table 'taskstate_task' in the database {alias!r} was created by another project "
            "with the same name: dramatiq-taskstate 0.3.4 or earlier.",
            hint="Either install 0.3.4 again and run 'manage.py migrate taskstate zero', which "
            "deletes its tasks, or rename its table to keep them. "
            + see("docs/guides/upgrading.md#before-you-begin"),
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
                f"StateMiddleware is missing from DRAMATIQ_BROKER['MIDDLEWARE'], which is "
                f"{listed!r}. No task is tracked.",
                hint=f"Add {MIDDLEWARE_PATH!r} to the list, at any position. "
                + see("docs/troubleshooting.md#a-task-stays-enqueued"),
                id="taskstate.W001",
            )
        ]
    if len(ours) > 1:
        return [
            Error(
                f"StateMiddleware is listed {len(ours)} times in DRAMATIQ_BROKER['MIDDLEWARE']: "
                f"{ours!r}. Each of them would track every message.",
                hint="Keep one of them.",
                id="taskstate.E002",
            )
        ]
    return []


def _is_ours(entry: object) -> bool:
    """Return whether an entry of the list is a ``StateMiddleware``: an instance or a path."""
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


def _check_functions() -> list[CheckMessage]:
    """Check that each function that the settings name can be imported and called."""
    given = conf.given_settings()
    found: list[CheckMessage] = []
    for setting, code, page in (
        (conf.TENANT, "E020", "docs/troubleshooting.md#a-task-stays-enqueued"),
        (conf.VISIBLE_TASKS, "E021", "docs/troubleshooting.md#connection-lost-trying-again"),
        (conf.USER_ERROR, "E025", "docs/troubleshooting.md#a-task-failed-without-an-error"),
    ):
        value = given.get(setting.key)
        problem = setting.find_problem(value)
        # _check_options has reported a value that is neither a function nor a string.
        if problem is not None and conf.find_problem(setting.key, value) is None:
            text = f"TASKSTATE: {problem.message}"
            hint = f"{problem.hint} {see(page)}"
            found.append(Error(text, hint=hint, id=f"taskstate.{code}"))
    return found


def _check_encoders() -> list[CheckMessage]:
    """Check that each of ``TRUSTED_ENCODERS`` can be imported."""
    paths = conf.given_settings().get("TRUSTED_ENCODERS", ())
    if conf.find_problem("TRUSTED_ENCODERS", paths) is not None:
        return []  # _check_options has reported it.
    found = [conf.import_encoder(path) for path in paths]
    return [
        Error(f"TASKSTATE: {each.message}", hint=each.hint, id=f"taskstate.{each.code}")
        for each in found
        if isinstance(each, conf.Problem)
    ]


def _check_database() -> list[CheckMessage]:
    alias = conf.tasks_database()
    if alias not in settings.DATABASES:
        known = ", ".join(repr(name) for name in settings.DATABASES)
        return [
            Error(
                f"DRAMATIQ_TASKS_DATABASE is {alias!r}, but DATABASES has no such alias.",
                hint=f"Set it to one of {known}, or add that alias to DATABASES.",
                id="taskstate.E005",
            )
        ]
    # Here, because models can't be imported before the apps are ready.
    from taskstate.stores.clock import VENDORS

    connection = connections[alias]
    if connection.vendor in VENDORS:
        return []
    return [
        Error(
            f"Tasks can't be stored in the database {alias!r}: it is {connection.display_name}, "
            "which is not supported.",
            hint="Set DRAMATIQ_TASKS_DATABASE to the alias of a PostgreSQL, MariaDB, MySQL or "
            "SQLite database.",
            id="taskstate.E007",
        )
    ]


#: The beginnings of the ``ENGINE`` of a database that has one schema per tenant.
_SCHEMA_PER_TENANT = ("django_tenants.", "tenant_schemas.")
_HOW_TO_SET_TENANT = (
    "Set TASKSTATE['TENANT'] to the dotted path of a function that returns the name of the current "
    "tenant: def current_tenant(): return '' if connection.schema_name == "
    "get_public_schema_name() else connection.schema_name."
)
_SEE_TENANTS = see("docs/guides/tenants.md#a-schema-per-tenant")


def _check_tenants() -> list[CheckMessage]:
    """Check the settings of a site that has one schema per tenant, as django-tenants makes them."""
    per_tenant = [
        alias
        for alias, database in settings.DATABASES.items()
        if str(database.get("ENGINE", "")).startswith(_SCHEMA_PER_TENANT)
    ]
    if not per_tenant:
        return []
    shared, of_tenants = _apps_of_site()
    found: list[CheckMessage] = []
    if conf.TENANT.function is None:
        found.append(_tenant_is_not_set(per_tenant[0], of_tenants))
    if conf.tasks_database() in per_tenant:
        found += _check_schema_of_tables(shared, of_tenants)
    return found


def _tenant_is_not_set(alias: str, of_tenants: list[str]) -> CheckMessage:
    engine = settings.DATABASES[alias]["ENGINE"]
    text = f"TENANT is not set, but the database {alias!r} has one schema per tenant ({engine})"
    users = apps.get_app_config(settings.AUTH_USER_MODEL.split(".", maxsplit=1)[0]).name
    if _lists(of_tenants, users):
        return Error(
            f"TASKSTATE: {text}. Since users of different tenants have the same keys, they would "
            "see each other's tasks.",
            hint=f"{_HOW_TO_SET_TENANT} {_SEE_TENANTS}",
            id="taskstate.E022",
        )
    return CheckWarning(
        f"TASKSTATE: {text}. On the pages of each tenant, staff see the tasks of all tenants, and "
        "users see all of their own tasks.",
        hint=f"{_HOW_TO_SET_TENANT} If you want this, silence the check. {_SEE_TENANTS}",
        id="taskstate.W020",
    )


def _check_schema_of_tables(shared: list[str], of_tenants: list[str]) -> list[CheckMessage]:
    """Check that there is one table of tasks: the writer's thread is in no tenant's schema."""
    if _lists(of_tenants, "taskstate"):
        text = (
            "'taskstate' is one of TENANT_APPS. Pages would read the tables in a tenant's schema, "
            "but rows are written by a separate thread, which is in no tenant's schema."
        )
    elif not _lists(shared, "taskstate"):
        text = "'taskstate' is not one of SHARED_APPS, so its tables are not created."
    else:
        return []
    hint = (
        "List 'taskstate' in SHARED_APPS only. Each task stores the name of its tenant "
        f"(TASKSTATE['TENANT']). {_SEE_TENANTS}"
    )
    return [Error(text, hint=hint, id="taskstate.E023")]


def _apps_of_site() -> tuple[list[str], list[str]]:
    """Return the apps whose tables are in the shared schema, and those whose tables are in the
    schema of each tenant."""
    types = getattr(settings, "TENANT_TYPES", None)
    if not (getattr(settings, "HAS_MULTI_TYPE_TENANTS", False) and isinstance(types, dict)):
        return list(getattr(settings, "SHARED_APPS", ())), list(
            getattr(settings, "TENANT_APPS", ())
        )
    public = getattr(settings, "PUBLIC_SCHEMA_NAME", "public")
    shared = list(types.get(public, {}).get("APPS", ()))
    of_tenants = [app for name in types if name != public for app in types[name].get("APPS", ())]
    return shared, of_tenants


def _lists(listed: list[str], app: str) -> bool:
    """Return whether a list of apps contains one, by its name or the path of its configuration."""
    return any(entry == app or entry.startswith(f"{app}.apps.") for entry in listed)
