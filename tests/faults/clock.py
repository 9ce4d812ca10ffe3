"""The databases' own clocks."""

from django.db import connections

NOW = {
    "postgresql": "SELECT extract(epoch FROM clock_timestamp())::float8",
    "mysql": "SELECT unix_timestamp(sysdate(6))",
    "sqlite": "SELECT strftime('%s', 'now') + strftime('%f', 'now') - strftime('%S', 'now')",
}


def database_time(alias):
    """Return the seconds since 1970 by the database's own clock."""
    with connections[alias].cursor() as cursor:
        cursor.execute(NOW[connections[alias].vendor])
        return float(cursor.fetchone()[0])
