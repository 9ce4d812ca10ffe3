"""SQLite: a batch travels as JSON, which ``json_each`` reads."""

from __future__ import annotations

from taskstate.stores.columns import Column
from taskstate.stores.dialects.base import INSERT, RETURNING, WATERMARK, assignments, is_newer
from taskstate.stores.dialects.json_batch import JsonDialect

_NEWER = is_newer("excluded.{}", "taskstate_task.{}", "CAST({} AS TEXT)")


class SqliteDialect(JsonDialect):
    """SQLite from 3.38 on, the first that takes a value out of a JSON array by its place."""

    def _statement(self, *, returning: bool, details: bool) -> str:
        return f"""
            {INSERT}
            SELECT {self._values(details=details)}
            FROM json_each(%s)
            WHERE COALESCE(({WATERMARK}), 0) = %s
            ON CONFLICT (message_id) DO UPDATE SET {assignments("excluded.{0}")}
            WHERE {_NEWER}
            {RETURNING if returning else ""}
        """

    def _sent_value(self, column: Column, place: int) -> str:
        return f"value ->> {place}"
