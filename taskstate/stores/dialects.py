"""The guarded statement, in the words of each database, side by side.

All three do the same: insert the rows of a batch, or update those that are there, where the
new fact is greater than the stored one by ``transitions.precedence``; and nothing at all if
there was a clear since the caller looked.  In autocommit each is a transaction by itself.

They differ in how a batch travels fastest.  Measured with 1,000 rows, all indexes in place:

- PostgreSQL unnests an array per column, in 12 us a row, where COPY takes 9.  The same rows as
  JSON take 18 (``json_to_recordset``) to 25 (``json_array_elements_text`` per column).
- SQLite (``json_each``) and MariaDB (``JSON_TABLE``) have no arrays, and take JSON.

``make bench ARGS="flush --database postgres"`` measures the first two again.
"""

from __future__ import annotations

import abc
import itertools
import json
import uuid
from typing import Any, Callable, ClassVar, Iterable, Sequence, Union

from django.db.backends.base.base import BaseDatabaseWrapper

from ..models import Task
from ..transitions import (
    FINISHED,
    FINISHED_PHASE,
    MAX_TIME,
    NO_EXTRAS,
    ORDER_MASK,
    PHASE_MASK,
    PHASE_SHIFT,
    TIME_SHIFT,
    WAITING,
    Extras,
    MessageFields,
    Status,
    Transition,
    UserPk,
    pack_rank,
    status_of,
)
from . import watermark
from .locks import LOCK_WAIT_SECONDS
from .rows import as_datetime, worker_name

#: Most facts have nothing to say in these: then they are not sent, and emptied by the statement.
EXTRA_COLUMNS = (
    "progress",
    "progress_text",
    "error",
    "traceback",
    "next_attempt_at",
    "result",
    "metadata",
    "stored_message",
)

#: All columns that are written.  Those that decide come last, the most significant one at the very
#: end: MariaDB assigns from left to right, and compares with what it has assigned already.  Once a
#: column is assigned the comparison is still right for those that are more significant.
COLUMNS = (
    "message_id",
    "status",
    "finished_at",
    "updated_at",
    "written_at",
    "worker",
    *EXTRA_COLUMNS,
    "user_id",
    "app_name",
    "model_name",
    "description",
    "queue_name",
    "actor_name",
    "enqueued_at",
    "started_at",
    "attempt",
    "rank",
)

_INTO = f"INSERT INTO taskstate_task ({', '.join(COLUMNS)})"
#: Without a row, there never was a clear.
_WATERMARK = "SELECT cleared_at FROM taskstate_watermark WHERE id = 1"
_RETURNING = "RETURNING message_id, rank"

#: What a signed column of 64 bits holds.  JSON holds more, and MariaDB and SQLite would store
#: something else instead of complaining.
_INTEGERS = range(-(2**63), 2**63)

_PHASE = f"(new.rank >> {PHASE_SHIFT} & {PHASE_MASK})"
_ORDER = f"(new.rank & {ORDER_MASK})"
_TIME = f"(new.rank >> {TIME_SHIFT} & {MAX_TIME})"

#: From a column's name to the SQL for it.
Column = Callable[[str], str]
#: What a statement takes: the batch, or a column of it, as text; and the watermark.
Parameter = Union[str, int]


class Dialect(abc.ABC):
    """Builds the statement for one database, and the parameters for a batch."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = connection
        self._statements = {
            flags: " ".join(self._statement(returning=flags[0], extras=flags[1]).split())
            for flags in itertools.product((True, False), repeat=2)
        }

    def prepare(
        self, facts: Sequence[Transition], version: int, *, returning: bool
    ) -> tuple[str, list[Parameter]]:
        """Return the statement that writes ``facts``, and its parameters.

        Parameters:
          version(int): The watermark that the caller has seen.
          returning(bool): Whether the statement is to return the id and the rank of each row that
            it changes, and perhaps of some that lose: those have a rank that isn't ours.

        Raises:
          OverflowError: If a number doesn't fit a column of 64 bits.
        """
        extras = any(fact.has_extras for fact in facts)
        parameters = self._parameters(facts, extras=extras)
        return self._statements[returning, extras], [*parameters, version]

    @abc.abstractmethod
    def _statement(self, *, returning: bool, extras: bool) -> str: ...

    @abc.abstractmethod
    def _parameters(self, facts: Sequence[Transition], *, extras: bool) -> list[Parameter]: ...

    def _now(self) -> str:
        # As a query of its own it is asked for once, and not for each row.
        return f"(SELECT {watermark.clock_of(self._connection)})"

    def rows(self, rowcount: int, sent: int) -> int:
        """Return how many rows were changed, out of so many that were sent."""
        return rowcount


class PostgreSql(Dialect):
    """Arrays, which psycopg would build element by element, are written out here."""

    def _statement(self, *, returning: bool, extras: bool) -> str:
        user_type = Task._meta.get_field("user").db_type(self._connection)
        said = "NULL, " * len(EXTRA_COLUMNS)
        sent = ""
        if extras:
            said = f"""
                new.progress, new.progress_text, new.error, new.traceback,
                {_timestamp("new.next_attempt_at")}, new.result, new.metadata, new.stored_message,
            """
            sent = """,
                unnest(%s::float8[]) AS progress, unnest(%s::text[]) AS progress_text,
                unnest(%s::text[]) AS error, unnest(%s::text[]) AS traceback,
                unnest(%s::bigint[]) AS next_attempt_at, unnest(%s::jsonb[]) AS result,
                unnest(%s::jsonb[]) AS metadata, unnest(%s::text[]) AS stored_message
            """
        status = f"({_statuses()})[{_PHASE} * {ORDER_MASK + 1} + {_ORDER} + 1]"
        newer = _newer(
            _prefixed("excluded"),
            _prefixed("taskstate_task"),
            lambda column: f'{column}::text COLLATE "C"',
        )
        # The columns are in the order of COLUMNS.
        # The limit is set, and the watermark read, before the first row is touched.  The lock on
        # the table, which a clear waits for, comes even before the snapshot, and so it is not
        # limited: ALTER TABLE is waited for as long as it takes.
        return f"""
            {_INTO}
            SELECT new.message_id, {status},
                CASE WHEN {_PHASE} = {FINISHED_PHASE} THEN {_timestamp(_TIME)} END,
                {_timestamp(_TIME)}, {self._now()}, CASE WHEN {_PHASE} > 0 THEN %s END,
                {said} new.user_id,
                new.app_name, new.model_name, new.description, new.queue_name,
                new.actor_name, {_timestamp("new.enqueued_at")}, {_timestamp("new.started_at")},
                new.attempt, new.rank
            FROM (
                SELECT unnest(%s::uuid[]) AS message_id, unnest(%s::{user_type}[]) AS user_id,
                    unnest(%s::text[]) AS app_name, unnest(%s::text[]) AS model_name,
                    unnest(%s::text[]) AS description, unnest(%s::text[]) AS queue_name,
                    unnest(%s::text[]) AS actor_name, unnest(%s::bigint[]) AS enqueued_at,
                    unnest(%s::bigint[]) AS started_at, unnest(%s::integer[]) AS attempt,
                    unnest(%s::bigint[]) AS rank {sent}
            ) AS new
            WHERE (SELECT set_config('lock_timeout', '{LOCK_WAIT_SECONDS}s', true)) IS NOT NULL
                AND COALESCE(({_WATERMARK}), 0) = %s
            ON CONFLICT (message_id) DO UPDATE SET {_assignments("excluded.{}")}
            WHERE {newer}
            {_RETURNING if returning else ""}
        """

    def _parameters(self, facts: Sequence[Transition], *, extras: bool) -> list[Parameter]:
        """Turn the batch by 90 degrees: a column is an array literal."""
        changing: Any = Transition(*zip(*facts))
        constant: Any = MessageFields(*zip(*changing.fields))  # type: ignore[arg-type]
        parameters: list[Parameter] = [
            worker_name(),
            "{" + ",".join(constant.message_id) + "}",
            _keys(constant.user_pk),
            _text_array(constant.app_name),
            _text_array(constant.model_name),
            _text_array(constant.description),
            _text_array(constant.queue_name),
            _text_array(constant.actor_name),
            _numbers(constant.enqueued_at),
            _numbers(changing.started_at),
            _numbers(changing.attempt),
            _numbers(changing.rank),
        ]
        if extras:
            some: Any = Extras(*zip(*(extras or NO_EXTRAS for extras in changing.extras)))  # type: ignore[arg-type]
            parameters += [
                _numbers(some.progress),
                _texts(some.progress_text),
                _texts(some.error),
                _texts(some.traceback),
                _numbers(some.next_attempt_at),
                _texts(some.result),
                _texts(constant.metadata),
                _texts(constant.stored_message),
            ]
        return parameters


class JsonDialect(Dialect):
    """One that takes the batch as JSON: an array of rows, which are arrays of columns."""

    #: The columns that are sent, in order; with extras, and without.
    _SENT: ClassVar = {
        extras: tuple(
            column
            for column in COLUMNS
            if column not in {"written_at", "worker", *(() if extras else EXTRA_COLUMNS)}
        )
        for extras in (True, False)
    }

    def _values(self, sent: Callable[[str, int], str], *, extras: bool) -> str:
        """Return the SQL for all columns; ``sent`` returns that for one that is sent at a place."""
        sql = dict.fromkeys(COLUMNS, "NULL")
        places = {column: place for place, column in enumerate(self._SENT[extras])}
        sql.update((column, sent(column, place)) for column, place in places.items())
        waiting = ", ".join(f"'{status.value}'" for status in WAITING)
        sql["worker"] = f"CASE WHEN {sql['status']} IN ({waiting}) THEN NULL ELSE %s END"
        sql["written_at"] = self._now()
        return ", ".join(sql.values())

    def _parameters(self, facts: Sequence[Transition], *, extras: bool) -> list[Parameter]:
        """Return the batch as text."""
        native_uuid: bool = self._connection.features.has_native_uuid_field
        time = _Times(self._connection)
        rows = []
        for fact in facts:
            fields = fact.fields
            status = status_of(fact.rank)
            updated_at = time(fact.time)
            rows.append(
                # In the order of COLUMNS.
                (
                    fields.message_id if native_uuid else fields.message_id.replace("-", ""),
                    status.value,
                    updated_at if status in FINISHED else None,
                    updated_at,
                    *(_extras_of(fact, time) if extras else ()),
                    _json_key(fields.user_pk, native_uuid=native_uuid),
                    fields.app_name,
                    fields.model_name,
                    fields.description,
                    fields.queue_name,
                    fields.actor_name,
                    time(fields.enqueued_at),
                    None if fact.started_at is None else time(fact.started_at),
                    fact.attempt,
                    fact.rank,
                )
            )
        return [worker_name(), json.dumps(rows, ensure_ascii=False)]


class Sqlite(JsonDialect):
    """SQLite from 3.38 on, where a value can be taken out of JSON by its place."""

    def _statement(self, *, returning: bool, extras: bool) -> str:
        newer = _newer(_prefixed("excluded"), _prefixed("taskstate_task"), _as_text)
        values = self._values(lambda _, place: f"value ->> {place}", extras=extras)
        return f"""
            {_INTO}
            SELECT {values}
            FROM json_each(%s)
            WHERE COALESCE(({_WATERMARK}), 0) = %s
            ON CONFLICT (message_id) DO UPDATE SET {_assignments("excluded.{}")}
            WHERE {newer}
            {_RETURNING if returning else ""}
        """


class MariaDb(JsonDialect):
    """MariaDB from 10.6 on, which is the first to have ``JSON_TABLE``.

    It can't say which rows an upsert has changed: ``RETURNING`` returns unchanged rows as well.
    So where somebody wants to know, the rows are joined to the table first, and those that are
    not newer left out.  That costs about 2 us a row, and the answer 4 more (PyMySQL).  Two that
    write facts of equal rank at the same time are both told that they have changed the row.
    """

    # Not the database's own character set, which may be another one than the table's.
    _TEXT = "text CHARACTER SET utf8mb4"
    _TYPES = {
        # A text holds 65,535 bytes, and what is longer is cut off without a word.
        "stored_message": "longtext CHARACTER SET utf8mb4",
        "message_id": "char(36) CHARACTER SET ascii",
        "finished_at": "datetime(6)",
        "updated_at": "datetime(6)",
        "enqueued_at": "datetime(6)",
        "started_at": "datetime(6)",
        "next_attempt_at": "datetime(6)",
        "progress": "double",
        "attempt": "bigint",
        "rank": "bigint",
    }

    def _statement(self, *, returning: bool, extras: bool) -> str:
        newer = _newer(_values, _prefixed("taskstate_task"), _as_bytes)
        changed = "TRUE"
        if returning:
            known_newer = _newer(_prefixed("new"), _prefixed("known"), _as_bytes)
            changed = f"(known.message_id IS NULL OR {known_newer})"
        places = ", ".join(
            f"{column} {self._TYPES.get(column, self._TEXT)} PATH '$[{place}]' ERROR ON ERROR"
            for place, column in enumerate(self._SENT[extras])
        )
        values = self._values(lambda column, _: f"new.{column}", extras=extras)
        join = "LEFT JOIN taskstate_task AS known ON known.message_id = new.message_id"
        keep = _assignments(f"IF({newer}, VALUES({{0}}), taskstate_task.{{0}})")
        return f"""
            SET STATEMENT innodb_lock_wait_timeout = {LOCK_WAIT_SECONDS},
                lock_wait_timeout = {LOCK_WAIT_SECONDS} FOR {_INTO}
            SELECT {values}
            FROM JSON_TABLE(%s, '$[*]' COLUMNS ({places})) AS new {join if returning else ""}
            WHERE COALESCE(({_WATERMARK} LOCK IN SHARE MODE), 0) = %s AND {changed}
            ON DUPLICATE KEY UPDATE {keep}
            {_RETURNING if returning else ""}
        """

    def rows(self, rowcount: int, sent: int) -> int:
        """Return 0 if nothing was written, else ``sent``: MariaDB counts a row that was inserted
        as one, and one that stayed the same too."""
        return min(rowcount, sent)


def dialect_of(connection: BaseDatabaseWrapper) -> Dialect:
    """Return the dialect of a connection."""
    kinds: dict[str, type[Dialect]] = {
        "postgresql": PostgreSql,
        "sqlite": Sqlite,
        "mysql": MariaDb,
    }
    return kinds[connection.vendor](connection)


# SQL that they share.


def _newer(new: Column, old: Column, text: Callable[[str], str]) -> str:
    """Compare two rows by ``transitions.precedence``; ``text`` makes a column comparable by its
    code points."""
    return f"({_precedence(new, text)}) > ({_precedence(old, text)})"


def _precedence(column: Column, text: Callable[[str], str]) -> str:
    texts = ("actor_name", "queue_name", "description", "model_name", "app_name")
    started_at, enqueued_at = column("started_at"), column("enqueued_at")
    parts = [
        column("rank"),
        column("attempt"),
        f"{started_at} IS NOT NULL",
        f"COALESCE({started_at}, {enqueued_at})",
        enqueued_at,
        *(text(column(name)) for name in texts),
        f"COALESCE({text(column('user_id'))}, '')",
    ]
    return ", ".join(parts)


def _assignments(template: str) -> str:
    return ", ".join(f"{name} = {template.format(name)}" for name in COLUMNS[1:])


def _prefixed(table: str) -> Column:
    return lambda column: f"{table}.{column}"


def _values(column: str) -> str:
    return f"VALUES({column})"


def _as_text(column: str) -> str:
    return f"CAST({column} AS TEXT)"


def _as_bytes(column: str) -> str:
    return f"CAST(CONVERT({column} USING utf8mb4) AS BINARY)"


def _timestamp(milliseconds: str) -> str:
    return f"to_timestamp({milliseconds} / 1000::float8)"


def _statuses() -> str:
    """Return the statuses by phase and order within the phase, as an array."""
    names = dict.fromkeys(range((PHASE_MASK + 1) * (ORDER_MASK + 1)), "NULL")
    for status in Status:
        rank = pack_rank(status, 0, 0)
        place = (rank >> PHASE_SHIFT) * (ORDER_MASK + 1) + (rank & ORDER_MASK)
        names[place] = f"'{status.value}'"
    return f"ARRAY[{', '.join(names.values())}]"


# Batches on their way.


def _extras_of(fact: Transition, time: Callable[[int], str]) -> tuple[object, ...]:
    """Return a fact's values of ``EXTRA_COLUMNS``."""
    extras = fact.extras or NO_EXTRAS
    due = extras.next_attempt_at
    return (
        extras.progress,
        extras.progress_text,
        extras.error,
        extras.traceback,
        None if due is None else time(due),
        extras.result,
        fact.fields.metadata,
        fact.fields.stored_message,
    )


def _numbers(values: Iterable[int | None]) -> str:
    return "{" + ",".join(map(str, values)).replace("None", "NULL") + "}"


def _keys(values: Sequence[object]) -> str:
    """Return an array of whatever the key of a user model may be."""
    if {*map(type, values)} <= {int, type(None)}:
        return _numbers(values)  # type: ignore[arg-type]
    return _texts([None if v is None else str(v) for v in values])


def _texts(values: Sequence[str | None]) -> str:
    """Return an array of texts of which most are absent."""
    elements = ["NULL" if v is None else _text_array([v])[1:-1] for v in values]
    return "{" + ",".join(elements) + "}"


def _text_array(values: Sequence[str]) -> str:
    joined = '","'.join(values)
    # Hardly any text holds either: one look at all of them is cheaper than one at each.
    if "\\" in joined or joined.count('"') != 2 * (len(values) - 1):
        escaped = [text.replace("\\", "\\\\").replace('"', '\\"') for text in values]
        joined = '","'.join(escaped)
    return '{"' + joined + '"}'


class _Times:
    """Makes the text of a time in Django's own form, which comparisons are made with.

    Django's adapting is slow: it is asked once per second of time.
    """

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._adapt = connection.ops.adapt_datetimefield_value
        self._seconds: dict[int, str] = {}

    def __call__(self, milliseconds: int) -> str:
        seconds, rest = divmod(milliseconds, 1000)
        text = self._seconds.get(seconds)
        if text is None:
            text = self._seconds[seconds] = str(self._adapt(as_datetime(seconds * 1000)))
        return f"{text}.{rest:03d}000" if rest else text


def _json_key(value: UserPk, *, native_uuid: bool) -> int | str | None:
    """Return the key of a user as its column has it."""
    if isinstance(value, uuid.UUID):
        return str(value) if native_uuid else value.hex
    if isinstance(value, int) and value not in _INTEGERS:
        raise OverflowError("the key of a user does not fit a column of 64 bits")
    return value
