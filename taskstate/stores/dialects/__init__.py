"""The guarded statement of the upsert store, in the dialect of each database.

All dialects do the same.  They insert the rows of a batch, or update an existing row if the new one
is greater by ``transition.sort_key``.  If there was a clear since the caller read the fence, they
write nothing.  In autocommit, each statement is a transaction of its own.

They differ in how a batch is sent fastest.  Measured with 1,000 rows and all indexes:

- PostgreSQL unnests an array per column, in 12 us per row, where COPY takes 9.  The same rows as
  JSON take 18 (``json_to_recordset``) to 25 (``json_array_elements_text`` per column).
- SQLite (``json_each``) and MariaDB (``JSON_TABLE``) have no arrays, and are sent JSON.

``make bench ARGS="flush --database postgres"`` measures the first two again.
"""

from __future__ import annotations

from django.db.backends.base.base import BaseDatabaseWrapper

from taskstate.stores.dialects.base import Dialect
from taskstate.stores.dialects.mariadb import MariaDbDialect
from taskstate.stores.dialects.postgresql import PostgreSqlDialect
from taskstate.stores.dialects.sqlite import SqliteDialect

_DIALECTS: dict[str, type[Dialect]] = {
    "postgresql": PostgreSqlDialect,
    "sqlite": SqliteDialect,
    "mysql": MariaDbDialect,
}


def dialect_of(connection: BaseDatabaseWrapper) -> Dialect:
    """Return the dialect of a connection's database."""
    return _DIALECTS[connection.vendor](connection)
