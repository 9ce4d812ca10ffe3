"""The time by the database's own clock, as SQL, so that the clocks of hosts are never compared.

Times are microseconds since 1970.  The function of Django's ORM for the database's time does not
return microseconds on every database.
"""

from __future__ import annotations

from django.db import NotSupportedError
from django.db.backends.base.base import BaseDatabaseWrapper

_CURRENT_TIME = {
    "postgresql": "(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint",
    "mysql": "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))",
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000",
}

#: The databases that tasks can be stored in, by Django's names for their kinds.
VENDORS = tuple(_CURRENT_TIME)


def current_time_sql(connection: BaseDatabaseWrapper) -> str:
    """Return the SQL for the current time by the database's own clock."""
    sql = _CURRENT_TIME.get(connection.vendor)
    if sql is None:
        raise NotSupportedError(
            f"Tasks can't be stored in {connection.display_name}. Point DRAMATIQ_TASKS_DATABASE at "
            "a PostgreSQL, MariaDB, MySQL or SQLite database."
        )
    return sql
