"""Which store it is: the fast one wherever the database allows it."""

from __future__ import annotations

import functools
from typing import Any, Callable

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from .. import conf
from . import Store
from .orm import OrmStore
from .upsert import UpsertStore

#: PostgreSQL 10, the first to unnest several arrays in step; as psycopg numbers it.
_POSTGRESQL = 100_000
#: The first with ``->>`` for a place in an array.
_SQLITE = (3, 38)
#: The first with ``JSON_TABLE``.
_MARIADB = (10, 6)

_ISOLATION = {
    "postgresql": "SHOW transaction_isolation",
    # MariaDB has renamed it in 11.1.
    "mysql": "SELECT variable_value FROM information_schema.session_variables "
    "WHERE variable_name IN ('TX_ISOLATION', 'TRANSACTION_ISOLATION')",
}


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
        raise ImproperlyConfigured(f"TASKSTATE['STORE'] is 'upsert', but {obstacle}")
    return OrmStore()


@functools.lru_cache(maxsize=None)
def find_obstacle(alias: str) -> str | None:
    """Return why the upsert can't be had in a database, with the cure, or None.

    It asks the database the first time; an error of the database's goes through.
    """
    connection: Any = connections[alias]
    with connection.cursor():
        return _old(connection) or _isolated(connection)


def _old(connection: Any) -> str | None:
    if connection.vendor == "postgresql":
        return None if connection.pg_version >= _POSTGRESQL else _needs(connection, "PostgreSQL 10")
    if connection.vendor == "sqlite":
        is_new = connection.Database.sqlite_version_info >= _SQLITE
        return None if is_new else _needs(connection, "SQLite 3.38")
    if connection.vendor == "mysql" and connection.mysql_is_mariadb:
        is_new = connection.mysql_version >= _MARIADB
        return None if is_new else _needs(connection, "MariaDB 10.6")
    return _needs(connection, "PostgreSQL, SQLite or MariaDB")


def _needs(connection: BaseDatabaseWrapper, what: str) -> str:
    return (
        f"the database {connection.alias!r} is no {what} or later. Set it to 'auto': the ORM "
        "store writes the same rows."
    )


def _isolated(connection: BaseDatabaseWrapper) -> str | None:
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
    return (
        f"transactions of the database {connection.alias!r} are {level}. Set the option "
        "isolation_level in DATABASES to read committed, or STORE to 'auto': the ORM store "
        "writes the same rows."
    )


def _forget(*, setting: str, **_: Any) -> None:
    if setting == "DATABASES":
        find_obstacle.cache_clear()


setting_changed.connect(_forget)
