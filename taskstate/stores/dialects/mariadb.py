"""MariaDB: a batch travels as JSON, which ``JSON_TABLE`` reads."""

from __future__ import annotations

from taskstate.stores.columns import Column, ColumnType
from taskstate.stores.dialects.base import INSERT, RETURNING, WATERMARK, assignments, is_newer
from taskstate.stores.dialects.json_batch import JsonDialect
from taskstate.stores.lock_timeout import LOCK_WAIT_SECONDS

# Not the database's own character set, which may be another one than the table's.
_TEXT = "text CHARACTER SET utf8mb4"
_TYPES = {
    ColumnType.UUID: "char(36) CHARACTER SET ascii",
    ColumnType.USER_KEY: _TEXT,
    ColumnType.TEXT: _TEXT,
    # A text holds 65,535 bytes; a longer value would be cut off without an error.
    ColumnType.LONG_TEXT: "longtext CHARACTER SET utf8mb4",
    ColumnType.INTEGER: "bigint",
    ColumnType.BIG_INTEGER: "bigint",
    ColumnType.FLOAT: "double",
    ColumnType.TIME: "datetime(6)",
    ColumnType.JSON: _TEXT,
}

_AS_BYTES = "CAST(CONVERT({} USING utf8mb4) AS BINARY)"
_NEWER = is_newer("VALUES({})", "taskstate_task.{}", _AS_BYTES)
_NEWER_THAN_KNOWN = is_newer("new.{}", "known.{}", _AS_BYTES)


class MariaDbDialect(JsonDialect):
    """MariaDB from 10.6 on, the first that has ``JSON_TABLE``.

    It can't say which rows an upsert has changed: ``RETURNING`` returns unchanged rows as well.  So
    where changes are asked for, the rows are joined to the table first, and those that are not
    newer are left out.  That costs about 2 us per row, and the answer 4 more (PyMySQL).  If two
    processes write transitions of equal rank at the same time, both report the row as changed.
    """

    def _statement(self, *, returning: bool, details: bool) -> str:
        columns = ", ".join(
            f"{column.name} {_TYPES[column.type]} PATH '$[{place}]' ERROR ON ERROR"
            for place, column in enumerate(self.sent_columns(details=details))
        )
        join, is_changed = "", "TRUE"
        if returning:
            join = "LEFT JOIN taskstate_task AS known ON known.message_id = new.message_id"
            is_changed = f"(known.message_id IS NULL OR {_NEWER_THAN_KNOWN})"
        keep_newer = assignments(f"IF({_NEWER}, VALUES({{0}}), taskstate_task.{{0}})")
        return f"""
            SET STATEMENT innodb_lock_wait_timeout = {LOCK_WAIT_SECONDS},
                lock_wait_timeout = {LOCK_WAIT_SECONDS} FOR {INSERT}
            SELECT {self._values(details=details)}
            FROM JSON_TABLE(%s, '$[*]' COLUMNS ({columns})) AS new {join}
            WHERE COALESCE(({WATERMARK} LOCK IN SHARE MODE), 0) = %s AND {is_changed}
            ON DUPLICATE KEY UPDATE {keep_newer}
            {RETURNING if returning else ""}
        """

    def _sent_value(self, column: Column, place: int) -> str:
        return f"new.{column.name}"

    def changed_rows(self, rowcount: int, sent: int) -> int:
        """Return 0 if nothing was written, else ``sent``.  MariaDB counts 1 for a row that was
        inserted, and also for one that stayed the same."""
        return min(rowcount, sent)
