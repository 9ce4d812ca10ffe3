"""Bad data: rows that a database rejects are left out, and each is named once.  All others are
written, and so is the state of a row if only its texts are rejected.

A schema that doesn't fit, and a server that takes no writes, must not be taken for bad data.
They are outages, and an outage loses nothing.
"""

import contextlib
import math
import random
import re
import time
import uuid

import dramatiq
import pytest
from django.db import connections
from django.db.backends.signals import connection_created

import taskstate
from taskstate.conf import Config
from taskstate.middleware import StateMiddleware
from taskstate.models import Task, user_key
from taskstate.tracking.fields import FieldCollector
from taskstate.transitions.status import Status
from tests.faults.options import ALIAS, DATABASE, NIGHTLY
from tests.support.databases import empty_tables
from tests.support.factories import make_id, make_transition
from tests.support.limits import LIMIT_SECONDS
from tests.support.stores import constraint, renamed_table, trigger

ROWS = 1000
#: Of the bad rows in a batch.
NUMBERS = (1, 10, 500)
#: What the constraint and the trigger reject.
FORBIDDEN = "forbidden"
STORES = ("orm", "upsert")

#: A long text, in bytes too.
LONG = "€" * 255
#: Nothing takes more bytes in a statement than a control character: ``\u0001``.
LONGEST = "\x01" * 255
#: Of MariaDB's upsert: the statement with a usual row fits in, with a row of the longest texts it
#: doesn't.  The server's own limit is the next multiple of 4 kB.
PACKET_BYTES = 40 * 1024

#: What a try to write a batch takes at most, its transaction and the fence included.
STATEMENTS = {"upsert": 1, "orm": 7}
#: What a row adds to that where a statement is limited to 999 parameters (SQLite before Django 6):
#: its 25 columns, if it is new, and its key, which is looked for before and after.
STATEMENTS_PER_ROW = {"upsert": 0, "orm": 27 / 999}
LIMIT = 999

UUIDS = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Flushing:
    """A flush cycle over a store, stepped by hand; counts what it takes.

    Parameters:
      alias(str): The database.
      store(str): The store, as ``TASKSTATE["STORE"]`` names it.
    """

    def __init__(self, alias, store):
        self.alias = alias
        self.collector = FieldCollector()
        self.cycle = StateMiddleware(store=store)._writer._cycle
        self.tries = []
        self.statements = 0

    def push(self, numbers, status, text_of=lambda number: ""):
        """Push a transition of each message, with a text in all its columns."""
        for number in numbers:
            text = text_of(number)
            names = ("actor_name", "queue_name", "model_name", "app_name")
            normalized = dict(zip(names, self.collector._normalize_names(*[text] * 4)))
            transition = make_transition(
                status, message_id=make_id(number), description=text, **normalized
            )
            # The hook has normalized the names; the writer normalizes the description.
            self.cycle.buffer.queue.push(transition._replace(fields=tuple(transition.fields)))

    def flush(self, rows=ROWS):
        """Return whether all of it went; counts statements, and the rows of each try."""
        self.tries, self.statements = [], 0
        self.cycle._options = Config(max_batch_size=rows)
        store = self.cycle.flusher._ready_store()
        write = store.write
        store.write = lambda batch: self.tries.append(len(batch)) or write(batch)
        try:
            with connections[self.alias].execute_wrapper(self._count):
                return self.cycle.flush()
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
    none of them are more bad parts than bad rows.  A bad row is tried once more, without texts."""
    cuts = sum(min(2**level, bad) for level in range(math.ceil(math.log2(rows))))
    return 1 + 2 * min(cuts, rows - 1) + bad


def write_poisoned(flushing, number, text, signals, caplog):
    """Write a batch with so many bad rows, half of it over rows that are there; return what it
    took, in words."""
    empty_tables(flushing.alias)
    bad = set(random.Random(number).sample(range(ROWS), number))
    flushing.push(range(0, ROWS, 2), Status.ENQUEUED)
    assert flushing.flush()
    signals.clear()
    caplog.clear()
    rejected_before = flushing.cycle.stats().rejected

    flushing.push(range(ROWS), Status.DONE, lambda n: text if n in bad else "")
    started = time.monotonic()
    assert flushing.flush()
    seconds = time.monotonic() - started

    expected = {n: "enqueued" for n in bad if n % 2 == 0}
    expected.update({n: "done" for n in range(ROWS) if n not in bad})
    assert {task.message_id.int: task.status for task in Task.objects.all()} == expected
    announced = sorted((task.message_id.int, task.status) for task, _ in signals)
    assert announced == [(n, "done") for n in range(ROWS) if n not in bad]
    lines = [
        record.getMessage() for record in caplog.records if record.name.startswith("taskstate")
    ]
    named = sorted(uuid.UUID(found).int for line in lines for found in UUIDS.findall(line))
    assert named == sorted(bad)
    stats = flushing.cycle.stats()
    assert (stats.rejected - rejected_before, stats.failed_flushes, stats.pending) == (number, 0, 0)
    return f"{number} bad: {flushing.took}, {seconds:.2f} s"


@pytest.mark.parametrize("store", STORES)
def test_rows_that_the_database_rejects(store, database, signals, caplog, report):
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
            # The server ends the connection after each rejection: the next statement notices, and
            # the new connection is asked for its limit.  By that, there is surely room for one row
            # only, so at worst all parts are cut, without asking the server.  A rejected row is
            # tried again without its free texts.
            tries, most = 2 * ROWS - 1 + number, ROWS + 7 * number + 1
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


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
@pytest.mark.parametrize("store", STORES)
def test_a_key_that_the_client_rejects(store, database, caplog):
    """Django's backend for MariaDB takes no 0 for an automatic key.  Past the check of keys, it is
    bad data; and the check knows of it, so that the task is tracked without its user."""
    user_key.cache_clear()
    state = StateMiddleware(store=store, flush_interval=0.0)
    for number in range(50):
        message = dramatiq.Message(
            queue_name="default",
            actor_name="export",
            args=(),
            kwargs={"for_state": {"user_pk": 0 if number == 7 else number + 1}},
            options={},
            message_id=make_id(number),
        )
        state.after_enqueue(None, message, None)
    assert taskstate.flush(LIMIT_SECONDS)

    users = {task.message_id.int: task.user_id for task in Task.objects.all()}
    assert users == {n: None if n == 7 else n + 1 for n in range(50)}
    (line,) = caplog.messages
    assert "actor export is tracked without its user" in line
    assert "0 is not a valid key" in line


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_a_row_that_the_client_rejects(database, caplog):
    """Should the check of keys ever let one pass: all others are written, and it is named."""
    flushing = Flushing(database, "orm")
    flushing.cycle.buffer._normalize = list
    for number in range(50):
        user_pk = 0 if number == 7 else number + 1
        flushing.cycle.buffer.queue.push(
            make_transition(message_id=make_id(number), user_pk=user_pk)
        )
    assert flushing.flush()

    assert Task.objects.count() == 49
    (line,) = caplog.messages
    assert f"The state of task {make_id(7)} (enqueued, actor actor) is not written" in line
    assert "because the database rejects it as bad data" in line
    assert "AutoField" in line


@contextlib.contextmanager
def character_set(alias, name):
    """Let the table hold no more than the characters of a set."""

    def convert(to):
        with connections[alias].cursor() as cursor:
            cursor.execute(f"ALTER TABLE taskstate_task CONVERT TO CHARACTER SET {to}")

    convert(name)
    try:
        yield
    finally:
        Task.objects.all().delete()
        convert("utf8mb4")


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("name", ["utf8mb3", "latin1"])
def test_a_text_that_the_table_can_not_hold(name, store, database, signals, caplog):
    """An emoji in a comment on the line of the traceback: the final state is written and
    announced, and so is everything else that the table takes."""
    with character_set(database, name):
        flushing = Flushing(database, store)
        flushing.push(range(50), Status.RUNNING)
        assert flushing.flush()
        signals.clear()
        texts = {"error": "ValueError: no", "traceback": "raise ValueError  # 😀"}
        flushing.push(range(49), Status.DONE)
        flushing.cycle.buffer.queue.push(
            make_transition(Status.FAILED, message_id=make_id(49), **texts)
        )
        assert flushing.flush()

        statuses = {task.message_id.int: task.status for task in Task.objects.all()}
        assert statuses == {**dict.fromkeys(range(49), "done"), 49: "failed"}
        row = Task.objects.get(pk=make_id(49))
        assert (row.error, row.traceback) == ("ValueError: no", None)
        (announced,) = [task for task, _ in signals if task.pk == row.pk]
        assert (len(signals), announced.error, announced.traceback) == (50, row.error, None)
        (line,) = caplog.messages
        assert "actor actor is written without its traceback: " in line
        # What names the actor is no text to leave out.
        flushing.cycle.buffer.queue.push(make_transition(message_id=make_id(50), actor_name="😀"))
        assert flushing.flush()
        assert "is not written, because the database rejects it as bad data" in caplog.messages[-1]


LIMITED = {
    "postgresql": "SET statement_timeout = '300ms'",
    "mysql": "SET max_statement_time = 0.3",
}
PACED = {
    "postgresql": [
        trigger.CREATE["postgresql"][0].replace(
            "IF NEW.app_name = 'forbidden' THEN RAISE EXCEPTION 'forbidden'; END IF;",
            "PERFORM pg_sleep(0.003);",
        ),
        "CREATE TRIGGER forbid BEFORE INSERT ON taskstate_task FOR EACH ROW "
        "EXECUTE FUNCTION forbid()",
    ],
    "mysql": [
        f"CREATE TRIGGER forbid_{event} BEFORE INSERT ON taskstate_task FOR EACH ROW "
        f"SET @slept = SLEEP({seconds})"
        for event, seconds in (("INSERT", 0.003), ("UPDATE", 0))
    ],
}


@pytest.mark.parametrize("store", STORES)
def test_a_batch_over_the_time_limit(store, server_database, caplog, report):
    """By the server's own limit for statements: the whole would take as long with each try."""

    def limit(connection, **kwargs):
        with connection.cursor() as cursor:
            cursor.execute(LIMITED[connection.vendor])

    flushing = Flushing(server_database, store)
    flushing.push([0], Status.ENQUEUED)
    assert flushing.flush()
    with trigger(server_database, PACED):
        limit(connections[server_database])
        connection_created.connect(limit)
        try:
            flushing.push(range(300), Status.DONE)
            assert flushing.flush()
        finally:
            connection_created.disconnect(limit)
            connections[server_database].close()

    report(flushing.took)
    assert Task.objects.filter(status="done").count() == 300
    stats = flushing.cycle.stats()
    assert (stats.failed_flushes, stats.rejected, stats.pending) == (0, 0, 0)
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
    stats = flushing.cycle.stats()
    assert (stats.failed_flushes, stats.rejected, stats.dropped, stats.pending) == (3, 0, 0, 0)
    began, ended = [
        record.getMessage() for record in caplog.records if record.name.startswith("taskstate")
    ]
    assert "can't be written" in began
    assert "are written again" in ended
    return f"3 flushes failed, {len(found)} rows right, lost 0: {stats.last_error[:90]}"


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("outage", [renamed_table, renamed_column])
def test_a_schema_that_does_not_fit(outage, store, database, caplog, report):
    """A table or a column is missing, because ``migrate`` has not run yet: no row is to blame."""
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
