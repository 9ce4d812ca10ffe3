"""Which store it is: the fast one wherever the database allows it."""

from __future__ import annotations

import functools
from typing import Any, Callable, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from .. import conf
from ..models import Task
from . import Store
from .orm import OrmStore
from .upsert import UpsertStore

#: PostgreSQL 10, the first to unnest several arrays in step; as psycopg numbers it.
_POSTGRESQL = 100_000
#: The first with ``->>`` for a place in an array.
_SQLITE = (3, 38)
#: The first with ``JSON_TABLE``.
_MARIADB = (10, 6)

_TAKE_AUTO = "Set STORE to 'auto': the ORM store writes the same rows."

_ISOLATION = {
    "postgresql": "SHOW transaction_isolation",
    # MariaDB has renamed it in 11.1.
    "mysql": "SELECT variable_value FROM information_schema.session_variables "
    "WHERE variable_name IN ('TX_ISOLATION', 'TRANSACTION_ISOLATION')",
}


class Obstacle(NamedTuple):
    """Why the upsert can't be had in a database, and the cure."""

    reason: str
    cure: str


def open_store(name: str, is_listened: Callable[[], bool]) -> Store:
    """Return the store that ``TASKSTATE["STORE"]`` names.

    Parameters:
      name(str): "orm", "upsert", or "auto": the upsert where it can be had.
      is_listened(Callable): Returns whether anybody wants to know which rows were changed.

    Raises:
      ImproperlyConfigured: If "upsert" is asked for and can't be had.
    """
    if name == "orm":
        return OrmStore()
    obstacle = find_obstacle(conf.tasks_database())
    if obstacle is None:
        return UpsertStore(is_listened=is_listened)
    if name == "upsert":
        raise ImproperlyConfigured(
            f"TASKSTATE['STORE'] is 'upsert', but {obstacle.reason}. {obstacle.cure}"
        )
    return OrmStore()


@functools.lru_cache(maxsize=None)
def find_obstacle(alias: str) -> Obstacle | None:
    """Return why the upsert can't be had in a database, or None.

    It asks the database the first time; an error of the database's goes through.
    """
    connection: Any = connections[alias]
    try:
        connection.ensure_connection()
        return _unfit_server(connection) or _too_strict(connection) or _odd_user_key(connection)
    except Exception:
        # No store looks after the connection yet: leave no broken one for the next try.
        if not connection.in_atomic_block:
            connection.close()
        raise


def _unfit_server(connection: Any) -> Obstacle | None:
    """Return why not if the server is of another kind, or too old."""
    if connection.vendor == "postgresql":
        needed, is_there = "PostgreSQL 10 or later", connection.pg_version >= _POSTGRESQL
    elif connection.vendor == "sqlite":
        version = connection.Database.sqlite_version_info
        needed, is_there = "SQLite 3.38 or later", version >= _SQLITE
    elif connection.vendor == "mysql" and connection.mysql_is_mariadb:
        needed, is_there = "MariaDB 10.6 or later", connection.mysql_version >= _MARIADB
    else:
        needed, is_there = "PostgreSQL, SQLite or MariaDB", False
    if is_there:
        return None
    return Obstacle(f"the database {connection.alias!r} is no {needed}", _TAKE_AUTO)


def _too_strict(connection: BaseDatabaseWrapper) -> Obstacle | None:
    """Return why not if transactions are stricter than READ COMMITTED.

    The statement has to see what was committed before it got its locks; of a stricter level, it
    sees what was there before it waited for them.
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
        f"transactions of the database {connection.alias!r} are {level}",
        f"Set its option isolation_level to read committed. Or: {_TAKE_AUTO}",
    )


def _odd_user_key(connection: BaseDatabaseWrapper) -> Obstacle | None:
    """Return why not if the user model's key is stored in a way of its own, which only the ORM
    knows."""
    field: Any = Task._meta.get_field("user").target_field
    methods = (type(field).get_prep_value, type(field).get_db_prep_value)
    if all(method.__module__.startswith("django.") for method in methods):
        return None
    reason = f"the key of the user model, a {type(field).__name__}, is stored in a way of its own"
    return Obstacle(f"{reason} (database {connection.alias!r})", _TAKE_AUTO)


def _forget(*, setting: str, **_: Any) -> None:
    if setting in {"DATABASES", "AUTH_USER_MODEL"}:
        find_obstacle.cache_clear()


setting_changed.connect(_forget)
