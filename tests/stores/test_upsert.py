"""What the upsert store has of its own: receivers, the fence, what a batch looks like."""

import json
import threading
import time
import uuid

import pytest
from django.db import DatabaseError, connections
from django.db.backends.utils import CursorWrapper
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from taskstate.models import Task, Watermark
from taskstate.stores import BadDataError, base
from taskstate.stores.columns import COLUMNS
from taskstate.stores.dialects import dialect_of, postgresql
from taskstate.stores.errors import is_contention
from taskstate.stores.fence import raise_fence
from taskstate.stores.orm import OrmStore
from taskstate.stores.upsert import UpsertStore
from taskstate.transitions.status import Status
from tests.support.factories import START, make_id, make_pending, make_transition
from tests.support.limits import LIMIT_SECONDS

TEXTS = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]))


def batch(status, numbers):
    return [make_pending(make_transition(status, message_id=make_id(n))) for n in numbers]


def statements(alias):
    """Collect what is run on a connection."""
    seen = []

    def note(execute, sql, params, many, context):
        seen.append(" ".join(sql.split()))
        return execute(sql, params, many, context)

    return seen, connections[alias].execute_wrapper(note)


def test_the_columns_are_the_models():
    """A column that the model gains has to be in the statement."""
    columns = {field.attname for field in Task._meta.concrete_fields} - {"seen_at"}
    assert {column.name for column in COLUMNS} == columns


def test_without_receivers_no_rows_are_returned(database):
    """The rows are written and counted.  MariaDB does not know which ones stayed the same."""
    store = UpsertStore(has_receivers=lambda: False)
    store.write(batch(Status.DONE, range(2)))
    seen, note = statements(database)
    with note:
        written = store.write(batch(Status.RUNNING, range(5)))

    assert [sql for sql in seen if "RETURNING" in sql] == []
    assert len(seen) == 1
    assert written.changes == []
    assert (written.rows, written.unchanged) == ((5, 0) if database == "mariadb" else (3, 2))
    assert Task.objects.filter(status="running").count() == 3


def test_a_batch_that_is_old_as_a_whole(database):
    """It takes one more look, and is not sent again and again."""
    for listened in (True, False):
        store = UpsertStore(has_receivers=lambda listened=listened: listened)
        store.write(batch(Status.DONE, range(2)))
        seen, note = statements(database)
        with note:
            written = store.write(batch(Status.RUNNING, range(2)))

        assert len(seen) <= 2
        assert sum("INSERT" in sql for sql in seen) == 1
        if listened or database != "mariadb":
            assert (written.rows, written.unchanged) == (0, 2)


def test_after_a_clear_it_looks_and_sends_the_rest(database):
    """Three statements once; then one again."""
    store = UpsertStore()
    store.write(batch(Status.ENQUEUED, [1]))
    old = batch(Status.DONE, [1])
    assert raise_fence(database, LIMIT_SECONDS)
    young = make_pending(make_transition(message_id=make_id(2), happened_at=time.monotonic() + 1))
    seen, note = statements(database)
    with note:
        assert store.write([*old, young]).rows == 1
        assert ["INSERT" in sql for sql in seen] == [True, False, True]
        seen.clear()
        assert store.write([young]).rows == 0
        assert sum("INSERT" in sql for sql in seen) == 1


def test_after_a_clear_with_a_driver_that_does_not_count_rows(database, monkeypatch):
    """Such a driver returns -1.  So does sqlite3 of old releases of Python, if a comment precedes
    the statement."""
    store = UpsertStore(has_receivers=lambda: False)
    store.write(batch(Status.ENQUEUED, [1]))
    assert raise_fence(database, LIMIT_SECONDS)
    monkeypatch.setattr(CursorWrapper, "rowcount", -1, raising=False)
    young = make_pending(make_transition(message_id=make_id(2), happened_at=time.monotonic() + 1))

    assert store.write([young]).rows == 0
    assert Task.objects.filter(pk=make_id(2)).exists()


def test_a_deleted_watermark_is_created_again(database):
    """The tables may be emptied.  The next flush creates it again."""
    store = UpsertStore()
    store.write(batch(Status.ENQUEUED, [1]))
    Watermark.objects.using(database).all().delete()

    assert store.write(batch(Status.DONE, [1])).rows == 1


def test_a_commit_whose_reply_was_lost_is_announced_once(database):
    """Rows that an earlier try has written are changes; those that another writer has changed since
    are not, and neither are those that are gone."""
    store = UpsertStore()
    pending_tasks = batch(Status.RUNNING, range(3))
    store.write(pending_tasks)
    store.write(batch(Status.DONE, [1]))
    Task.objects.filter(pk=make_id(2)).delete()
    for pending in pending_tasks:
        pending.maybe_committed = True

    changed = {change.task.pk.int for change in store.write(pending_tasks).changes}
    assert changed == {0, 2}, "the deleted one is written again"


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
@given(values=st.lists(TEXTS))
@hypothesis_settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_fits_an_array(database, values):
    """PostgreSQL reads the literal as it was meant."""
    values = ["", *values]
    with connections[database].cursor() as cursor:
        cursor.execute("SELECT %s::text[]", [postgresql._text_array(values)])
        assert cursor.fetchone()[0] == values
        cursor.execute("SELECT %s::text[]", [postgresql._key_array([None, *values])])
        assert cursor.fetchone()[0] == [None, *values]


def test_keys_of_every_kind(database):
    """A user model's key may be a number, a text or a UUID, as its column has it."""
    key = uuid.UUID(int=7)
    connection = connections[database]
    dialect = dialect_of(connection)
    place = [column.name for column in dialect.sent_columns(rare=False)].index("user_id")
    transitions = [make_transition(user_pk=pk) for pk in (None, 3, "anna", "NULL", key)]
    _, parameters = dialect.statement_for(transitions, 0, returning=False)
    if database == "postgres":
        _, *arrays, _ = parameters
        users = arrays[place]
        assert users == '{NULL,"3","anna","NULL","' + str(key) + '"}'
        return
    _, rows, _ = parameters
    native = connection.features.has_native_uuid_field
    expected = [None, 3, "anna", "NULL", str(key) if native else key.hex]
    assert [row[place] for row in json.loads(rows)] == expected


def test_ties_are_broken_column_by_column(database):
    """MariaDB assigns one column after the other: each case differs in one more of them."""
    names = ["tenant", "user_pk", "app_name", "model_name", "description"]
    names += ["queue_name", "actor_name"]
    store = UpsertStore()
    values = {**dict.fromkeys(names, "b"), "user_pk": 2, "attempt": 2}
    values.update(started_at=START + 1, enqueued_at=START + 1)
    order = [*names, "enqueued_at", "started_at", "attempt"]
    for place, name in enumerate(order):
        # Greater in one column, and smaller in all that are less significant.
        greater = dict(values)
        for lesser in order[:place]:
            greater[lesser] = {"user_pk": 1, "attempt": 1}.get(
                lesser, START if lesser.endswith("_at") else "a"
            )
        greater[name] = {"user_pk": 3, "attempt": 3}.get(
            name, START + 2 if name.endswith("_at") else "c"
        )
        for first, second in ((values, greater), (greater, values)):
            Task.objects.all().delete()
            for transition in (first, second):
                store.write([make_pending(make_transition(Status.RUNNING, **transition))])
            row = Task.objects.values().get()
            stored = {n: row["user_id" if n == "user_pk" else n] for n in names}
            assert stored == {n: greater[n] for n in names}, name
            assert row["attempt"] == greater["attempt"], name


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
@pytest.mark.parametrize("listened", [True, False])
def test_a_database_of_another_character_set(database, listened):
    """The tables decide what is stored, not the default of their database."""
    connection = connections[database]
    name = connection.ops.quote_name(connection.settings_dict["NAME"])
    store = UpsertStore(has_receivers=lambda: listened)
    text = "Grüße 😀"
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER DATABASE {name} CHARACTER SET latin1")
        for status in (Status.RUNNING, Status.DONE):
            store.write([make_pending(make_transition(status, description=text))])
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER DATABASE {name} CHARACTER SET utf8mb4")

    task = Task.objects.get()
    assert (task.status, task.description) == ("done", text)


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_a_connection_that_can_not_hold_a_text(database):
    """Django before 5.2 speaks an encoding without emoji: that row is bad, and no outage."""
    connection = connections[database]
    with connection.cursor() as cursor:
        cursor.execute("SET NAMES utf8mb3")
    store = UpsertStore()
    store.write([make_pending(make_transition(message_id=make_id(2)))])

    with pytest.raises(BadDataError):
        store.write([make_pending(make_transition(description="😀"))])
    connection.close()


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
@pytest.mark.parametrize("make_store", [UpsertStore, OrmStore])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_write_waits_for_a_table_lock_for_a_limited_time(database, make_store, is_first):
    """On MariaDB, also by the first flush ever; PostgreSQL takes that lock before any limit of the
    upsert's can be set."""
    failures = []
    if not is_first:
        make_store().write(batch(Status.ENQUEUED, [1]))

    def write():
        store = make_store()
        try:
            store.write(batch(Status.RUNNING, [1]))
        except DatabaseError as error:
            failures.append(error)
        finally:
            store.close()

    with connections[database].cursor() as cursor:
        cursor.execute("LOCK TABLES taskstate_task READ, taskstate_watermark READ")
        writer = threading.Thread(target=write)
        writer.start()
        writer.join(LIMIT_SECONDS)
        cursor.execute("UNLOCK TABLES")

    assert len(failures) == 1
    assert is_contention(failures[0])


def test_the_room_for_a_statement_is_enough(server_database):
    """Beside its rows: what doesn't fit a packet would look like an outage."""
    dialect = dialect_of(connections[server_database])

    assert max(map(len, dialect._statements.values())) < base._STATEMENT_BYTES
