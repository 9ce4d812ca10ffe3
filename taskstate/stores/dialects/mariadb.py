"""MariaDB: a batch travels as JSON, which ``JSON_TABLE`` reads."""

from __future__ import annotations

from taskstate.stores.columns import Column, ColumnType
from taskstate.stores.dialects.base import INSERT, RETURNING, WATERMARK, assignments, is_greater
from taskstate.stores.dialects.json_batch import JsonDialect
from taskstate.stores.lock_timeout import LOCK_WAIT_SECONDS

# Not the database's own character set, which may be another one than the table's.
_TEXT = "text CHARACTER SET utf8mb4"
_TYPES = {
    ColumnType.UUID: "char(36) CHARACTER SET ascii",
    ColumnType.USER_KEY: _TEXT,
    ColumnType.TEXT: _TEXT,
    # The type text holds 65,535 bytes.  A longer value would be truncated without an error.
    ColumnType.LONG_TEXT: "longtext CHARACTER SET utf8mb4",
    ColumnType.INTEGER: "bigint",
    ColumnType.BIG_INTEGER: "bigint",
    ColumnType.FLOAT: "double",
    ColumnType.TIME: "datetime(6)",
    ColumnType.JSON: _TEXT,
}

_AS_BYTES = "CAST(CONVERT({} USING utf8mb4) AS BINARY)"
_GREATER = is_greater("VALUES({})", "taskstate_task.{}", _AS_BYTES)
_GREATER_THAN_KNOWN = is_greater("new.{}", "known.{}", _AS_BYTES)


class MariaDbDialect(JsonDialect):
    """MariaDB from 10.6 on, the first that has ``JSON_TABLE``.

    It can't report which rows an upsert has changed: ``RETURNING`` returns unchanged rows as well.
    So if the changed rows are needed, the batch is joined to the table first, and rows that are not
    greater are left out.  That takes about 2 us per row, and returning them 4 more (PyMySQL).  If
    two processes write transitions of equal rank at the same time, both report the row as changed.
    """

    def _statement(self, *, returning: bool, rare: bool) -> str:
        columns = ", ".join(
            f"{column.name} {_TYPES[column.type]} PATH '$[{place}]' ERROR ON ERROR"
            for place, column in enumerate(self.sent_columns(rare=rare))
        )
        join, is_changed = "", "TRUE"
        if returning:
            join = "LEFT JOIN taskstate_task AS known ON known.message_id = new.message_id"
            is_changed = f"(known.message_id IS NULL OR {_GREATER_THAN_KNOWN})"
        keep_greater = assignments(f"IF({_GREATER}, VALUES({{0}}), taskstate_task.{{0}})")
        return f"""
            SET STATEMENT innodb_lock_wait_timeout = {LOCK_WAIT_SECONDS},
                lock_wait_timeout = {LOCK_WAIT_SECONDS} FOR {INSERT}
            SELECT {self._values(rare=rare)}
            FROM JSON_TABLE(%s, '$[*]' COLUMNS ({columns})) AS new {join}
            WHERE COALESCE(({WATERMARK} LOCK IN SHARE MODE), 0) = %s AND {is_changed}
            ON DUPLICATE KEY UPDATE {keep_greater}
            {RETURNING if returning else ""}
        """

    def _sent_value(self, column: Column, place: int) -> str:
        return f"new.{column.name}"

    def changed_rows(self, rowcount: int, sent: int) -> int:
        """Return 0 if nothing was written, else ``sent``: MariaDB counts an unchanged row like an
        inserted one."""
        return min(max(0, rowcount), sent)
