"""Chooses the store: the upsert store if the database supports it, else the ORM store."""

from __future__ import annotations

import functools
from typing import Any, Callable, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from taskstate import conf
from taskstate.models import Task
from taskstate.stores import Store
from taskstate.stores.base import left_usable
from taskstate.stores.orm import OrmStore
from taskstate.stores.upsert import UpsertStore

#: The oldest releases that the upsert store supports: the first PostgreSQL that unnests several
#: arrays in step, the first SQLite with ``->>`` for an index of an array, the first MariaDB with
#: ``JSON_TABLE``.
_OLDEST = {"PostgreSQL": (10,), "SQLite": (3, 38), "MariaDB": (10, 6)}

_USE_AUTO = "Set STORE to 'auto': the ORM store writes the same rows."

_ISOLATION = {
    "postgresql": "SHOW transaction_isolation",
    # MariaDB 11.1 has renamed the variable.
    "mysql": "SELECT variable_value FROM information_schema.session_variables "
    "WHERE variable_name IN ('TX_ISOLATION', 'TRANSACTION_ISOLATION')",
}


class Obstacle(NamedTuple):
    """Why the upsert store can't be used with a database, and what to do about it."""

    reason: str
    hint: str


def open_store(name: str, has_receivers: Callable[[], bool]) -> Store:
    """Return the store that ``TASKSTATE["STORE"]`` names.

    Parameters:
      name(str): "orm"; "upsert"; or "auto", which is "upsert" where that can be used.
      has_receivers(Callable): Returns whether ``task_changed`` has receivers.

    Raises:
      ImproperlyConfigured: If the name is "upsert", and that store can't be used.
    """
    if name == "orm":
        return OrmStore()
    obstacle = find_obstacle(conf.tasks_database())
    if obstacle is None:
        return UpsertStore(has_receivers=has_receivers)
    if name == "upsert":
        raise ImproperlyConfigured(
            f"TASKSTATE['STORE'] is 'upsert', but {obstacle.reason}. {obstacle.hint}"
        )
    return OrmStore()


@functools.lru_cache(maxsize=None)
def find_obstacle(alias: str) -> Obstacle | None:
    """Return why the upsert store can't be used with a database, or None if it can.

    The first call queries the database, and may raise its errors.
    """
    connection: Any = connections[alias]
    try:
        with left_usable(connection):
            connection.ensure_connection()
            return (
                _check_version(connection) or _check_isolation(connection) or _check_key(connection)
            )
    except Exception:
        # The next try must not find a broken connection, and no store exists that could close it.
        if not connection.in_atomic_block:
            connection.close()
        raise


def _check_version(connection: Any) -> Obstacle | None:
    """Return an obstacle if the database is of another kind, or too old."""
    if connection.vendor == "postgresql":
        # 90624 is 9.6.24.
        name, version = "PostgreSQL", divmod(connection.pg_version // 100, 100)
    elif connection.vendor == "sqlite":
        name, version = "SQLite", connection.Database.sqlite_version_info
    elif connection.vendor == "mysql" and connection.mysql_is_mariadb:
        name, version = "MariaDB", connection.mysql_version
    else:
        name, version = connection.display_name, ()
    oldest = _OLDEST.get(name)
    if oldest is not None and version >= oldest:
        return None
    present = " ".join([name, _dotted(version)]).strip()
    needed = f"{name} {_dotted(oldest)} or later" if oldest else "PostgreSQL, SQLite or MariaDB"
    return Obstacle(f"the database {connection.alias!r} is {present}, not {needed}", _USE_AUTO)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _check_isolation(connection: BaseDatabaseWrapper) -> Obstacle | None:
    """Return an obstacle if transactions are stricter than READ COMMITTED.

    The statement must see what was committed before it acquired its locks.  At a stricter level, it
    sees the state from before it waited for them.
    """
    query = _ISOLATION.get(connection.vendor)
    if query is None:
        return None
    with connection.cursor() as cursor:
        cursor.execute(query)
        level = cursor.fetchone()[0].lower().replace("-", " ")
    if level == "read committed":
        return None
    return Obstacle(
        f"the isolation level of the database {connection.alias!r} is '{level}', not "
        "'read committed'",
        f"Set isolation_level to 'read committed' in its OPTIONS. Or: {_USE_AUTO}",
    )


def _check_key(connection: BaseDatabaseWrapper) -> Obstacle | None:
    """Return an obstacle if the primary key of the user model converts its values for the database
    by methods of its own, which only the ORM calls."""
    field: Any = Task._meta.get_field("user").target_field
    methods = (type(field).get_prep_value, type(field).get_db_prep_value)
    if all(method.__module__.startswith("django.") for method in methods):
        return None
    return Obstacle(
        f"the primary key of the user model, a {type(field).__name__}, converts its values by "
        f"itself, which only the ORM store supports (database {connection.alias!r})",
        _USE_AUTO,
    )


def _forget(*, setting: str, **_: Any) -> None:
    if setting in {"DATABASES", "AUTH_USER_MODEL"}:
        find_obstacle.cache_clear()


setting_changed.connect(_forget)
