"""SQLite: a batch travels as JSON, which ``json_each`` reads."""

from __future__ import annotations

from taskstate.stores.columns import Column
from taskstate.stores.dialects.base import INSERT, RETURNING, WATERMARK, assignments, is_greater
from taskstate.stores.dialects.json_batch import JsonDialect

_GREATER = is_greater("excluded.{}", "taskstate_task.{}", "CAST({} AS TEXT)")


class SqliteDialect(JsonDialect):
    """SQLite from 3.38 on, the first that has ``->>`` for an index of a JSON array."""

    def _statement(self, *, returning: bool, rare: bool) -> str:
        return f"""
            {INSERT}
            SELECT {self._values(rare=rare)}
            FROM json_each(%s)
            WHERE COALESCE(({WATERMARK}), 0) = %s
            ON CONFLICT (message_id) DO UPDATE SET {assignments("excluded.{0}")}
            WHERE {_GREATER}
            {RETURNING if returning else ""}
        """

    def _sent_value(self, column: Column, place: int) -> str:
        return f"value ->> {place}"
