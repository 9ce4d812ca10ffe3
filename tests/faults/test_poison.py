"""Poison: the rows that a database refuses stay out, each named once; all others get in.

And what must not be taken for it: a schema that doesn't fit, a server that takes no writes.
These are outages, and an outage loses nothing.
"""

import contextlib
import math
import random
import time
import uuid

import pytest
from django.db import connections
from django.db.backends.signals import connection_created

from taskstate.middleware import StateMiddleware
from taskstate.models import Task
from taskstate.transitions import Status
from tests.conftest import empty_tables
from tests.factories import make_id, make_transition
from tests.faults.conftest import ALIAS, DATABASE, NIGHTLY
from tests.stores.test_contract import constraint, renamed_table, trigger

ROWS = 1000
#: Of the bad rows in a batch.
NUMBERS = (1, 10, 500)
#: What the constraint and the trigger refuse.
FORBIDDEN = "forbidden"
STORES = ("orm", "upsert")

#: A long text, in bytes too.
LONG = "€" * 255
#: Nothing takes more bytes in a statement than a control character: ``\u0001``.
LONGEST = "\x01" * 255
#: Of MariaDB's upsert: the statement with a usual row fits in, with a row of the longest texts it
#: doesn't.  The server's own limit is the next multiple of 4 kB.
PACKET_BYTES = 32 * 1024

#: What a try to write a batch takes at most, its transaction and the watermark included.
STATEMENTS = {"upsert": 1, "orm": 7}
#: What a row adds to that where a statement is limited to 999 parameters (SQLite before Django 6):
#: its 25 columns, if it is new, and its key, which is looked for before and after.
STATEMENTS_PER_ROW = {"upsert": 0, "orm": 27 / 999}
LIMIT = 999


class Flushing:
    """A flusher over a store, stepped by hand; counts what it takes.

    Parameters:
      alias(str): The database.
      store(str): The store, as ``TASKSTATE["STORE"]`` names it.
    """

    def __init__(self, alias, store):
        self.alias = alias
        self.flusher = StateMiddleware(store=store)._make_flusher()
        self.tries = []
        self.statements = 0

    def push(self, numbers, status, text_of=lambda number: ""):
        """Push a fact of each message, with a text in all its columns."""
        for number in numbers:
            text = text_of(number)
            names = ("actor_name", "queue_name", "description", "model_name", "app_name")
            self.flusher.buffer.push(
                make_transition(status, message_id=make_id(number), **dict.fromkeys(names, text))
            )

    def flush(self, rows=ROWS):
        """Return whether all of it went; counts statements, and the rows of each try."""
        self.tries, self.statements = [], 0
        store = self.flusher._store = self.flusher._store or self.flusher._open_store()
        write = store.write
        store.write = lambda batch: self.tries.append(len(batch)) or write(batch)
        try:
            with connections[self.alias].execute_wrapper(self._count):
                return self.flusher.everything(rows)
        finally:
            store.write = write

    @property
    def took(self):
        return f"{len(self.tries)} tries, {self.statements} statements"

    def _count(self, execute, sql, params, many, context):
        self.statements += 1
        return execute(sql, params, many, context)


def most_tries(rows, bad):
    """A part that is bad and not alone is cut in two: there are so many levels of parts, and on
    none of them are more bad parts than bad rows."""
    cuts = sum(min(2**level, bad) for level in range(math.ceil(math.log2(rows))))
    return 1 + 2 * min(cuts, rows - 1)


def write_poisoned(flushing, number, text, signals, caplog):
    """Write a batch with so many bad rows, half of it over rows that are there; return what it
    took, in words."""
    empty_tables(flushing.alias)
    bad = set(random.Random(number).sample(range(ROWS), number))
    flushing.push(range(0, ROWS, 2), Status.ENQUEUED)
    assert flushing.flush()
    signals.clear()
    caplog.clear()
    refused_before = flushing.flusher.stats().refused

    flushing.push(range(ROWS), Status.DONE, lambda n: text if n in bad else "")
    started = time.monotonic()
    assert flushing.flush()
    seconds = time.monotonic() - started

    expected = {n: "enqueued" for n in bad if n % 2 == 0}
    expected.update({n: "done" for n in range(ROWS) if n not in bad})
    assert {task.message_id.int: task.status for task in Task.objects.all()} == expected
    told = sorted((task.message_id.int, task.status) for task, _ in signals)
    assert told == [(n, "done") for n in range(ROWS) if n not in bad]
    lines = [
        record.getMessage() for record in caplog.records if record.name.startswith("taskstate")
    ]
    named = sorted(uuid.UUID(line.split(" of task ")[1].split()[0]).int for line in lines)
    assert named == sorted(bad)
    stats = flushing.flusher.stats()
    assert (stats.refused - refused_before, stats.failures, stats.pending) == (number, 0, 0)
    return f"{number} bad: {flushing.took}, {seconds:.2f} s"


@pytest.mark.parametrize("store", STORES)
def test_rows_that_the_database_refuses(store, database, signals, caplog, report):
    """By a CHECK, or by a trigger of the project's own."""
    is_limited = connections[database].features.max_query_params == LIMIT
    per_row = STATEMENTS_PER_ROW[store] if is_limited else 0
    for forbid in (constraint, trigger):
        flushing = Flushing(database, store)
        with forbid(database):
            for number in NUMBERS if NIGHTLY or forbid is constraint else NUMBERS[:2]:
                took = write_poisoned(flushing, number, FORBIDDEN, signals, caplog)
                tries = most_tries(ROWS, number)
                most = STATEMENTS[store] * len(flushing.tries) + per_row * sum(flushing.tries)
                report(f"{forbid.__name__}, {took} (at most {tries} tries, {most:.0f} statements)")
                assert len(flushing.tries) <= tries
                assert flushing.statements <= most


@pytest.mark.parametrize("server", ["mariadb"], indirect=True)
def test_rows_over_the_packet_limit(server, drilled, signals, caplog, report):
    """MariaDB's max_allowed_packet: a row that is too large by itself is bad data like any other.

    None can be for the ORM's statements: packets of 16 kB are always taken."""
    with packet_limit(server, PACKET_BYTES):
        flushing = Flushing(ALIAS, "upsert")
        for number in NUMBERS if NIGHTLY else NUMBERS[:2]:
            took = write_poisoned(flushing, number, LONGEST, signals, caplog)
            # There is surely room for one row only, so all parts are cut, without asking the
            # server.  It ends the connection after each refusal: the next statement notices, and
            # the new connection is asked for its limit.
            tries, most = 2 * ROWS - 1, ROWS + 2 * number + 1
            report(f"{took} (at most {tries} tries, {most} statements)")
            assert len(flushing.tries) <= tries
            assert flushing.statements <= most


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("server", ["mariadb"], indirect=True)
def test_a_batch_over_the_packet_limit(store, server, drilled, caplog, report):
    """The server would end the connection: that is no outage, and no row is to blame."""
    with packet_limit(server, 1024 * 1024):
        flushing = Flushing(ALIAS, store)
        flushing.push(range(ROWS), Status.ENQUEUED, lambda number: LONG)
        assert flushing.flush()

    report(f"{flushing.took}; at most {max(flushing.tries[3:])} rows in a statement")
    assert Task.objects.count() == ROWS
    assert caplog.messages == []


@contextlib.contextmanager
def packet_limit(server, number):
    """Let a MariaDB take so many bytes in a statement, for connections from now on."""
    ((before,),) = server.execute("SELECT @@GLOBAL.max_allowed_packet")
    connections[ALIAS].close()
    server.execute(f"SET GLOBAL max_allowed_packet = {number}")
    try:
        yield
    finally:
        connections[ALIAS].close()
        server.execute(f"SET GLOBAL max_allowed_packet = {before}")


class renamed_column:
    """Take a column away, and bring it back."""

    def __init__(self, alias):
        self.connection = connections[alias]

    def __enter__(self):
        self._rename("description", "moved")

    def __exit__(self, *error):
        self._rename("moved", "description")

    def _rename(self, old, new):
        with self.connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE taskstate_task RENAME COLUMN {old} TO {new}")


def outlive(outage, alias, store, caplog):
    """Write before, during and after an outage; return what was found, in words."""
    flushing = Flushing(alias, store)
    flushing.push(range(10), Status.ENQUEUED)
    assert flushing.flush()
    with outage:
        for status in (Status.ENQUEUED, Status.RUNNING, Status.DONE):
            flushing.push(range(0, ROWS, 1 + (status == Status.DONE)), status)
            assert not flushing.flush()
            # Nothing is cut: no row is to blame.
            assert len(flushing.tries) == 1
    flushing.push(range(0, ROWS, 4), Status.FAILED)
    assert flushing.flush()

    expected = {n: ["failed", "running", "done", "running"][n % 4] for n in range(ROWS)}
    found = {task.message_id.int: task.status for task in Task.objects.all()}
    assert found == expected
    stats = flushing.flusher.stats()
    assert (stats.failures, stats.refused, stats.dropped, stats.pending) == (3, 0, 0, 0)
    began, ended = [
        record.getMessage() for record in caplog.records if record.name.startswith("taskstate")
    ]
    assert "can't be written" in began
    assert "are written again" in ended
    return f"3 flushes failed, {len(found)} rows right, lost 0: {stats.last_error[:90]}"


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("outage", [renamed_table, renamed_column])
def test_a_schema_that_does_not_fit(outage, store, database, caplog, report):
    """A table or a column is missing, since somebody has yet to migrate: no row is to blame."""
    report(outlive(outage(database), database, store, caplog))


@pytest.mark.parametrize("store", STORES)
def test_a_server_that_takes_no_writes(store, server, drilled, caplog, report):
    """As after a failover to a standby."""
    report(outlive(read_only(server), ALIAS, store, caplog))


@contextlib.contextmanager
def read_only(server):
    server.set_read_only(DATABASE, read_only=True)
    try:
        yield
    finally:
        server.set_read_only(DATABASE, read_only=False)


@pytest.mark.parametrize("store", STORES)
def test_a_file_that_takes_no_writes(store, sqlite, caplog, report):
    """The same for SQLite; not by the file's mode, which means nothing to root."""
    report(outlive(query_only(), sqlite, store, caplog))


@contextlib.contextmanager
def query_only():
    """Let no connection to the SQLite file write: neither the present one nor later ones."""

    def forbid(connection, **kwargs):
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA query_only = ON")

    forbid(connections["default"])
    connection_created.connect(forbid)
    try:
        yield
    finally:
        connection_created.disconnect(forbid)
        connections["default"].close()
