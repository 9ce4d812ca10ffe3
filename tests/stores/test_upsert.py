"""What the upsert store has of its own: who listens, the fence, what a batch looks like."""

import json
import time
import uuid

import pytest
from django.db import connections
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from taskstate.models import Task, Watermark
from taskstate.stores import dialects, watermark
from taskstate.stores.upsert import UpsertStore
from taskstate.transitions import Status
from tests.conftest import LIMIT_SECONDS
from tests.factories import START, make_entry, make_id, make_transition

TEXTS = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]))


def batch(status, numbers):
    return [make_entry(make_transition(status, message_id=make_id(n))) for n in numbers]


def statements(alias):
    """Collect what is run on a connection."""
    seen = []

    def note(execute, sql, params, many, context):
        seen.append(" ".join(sql.split()))
        return execute(sql, params, many, context)

    return seen, connections[alias].execute_wrapper(note)


def test_the_columns_are_the_models():
    """A column that the model gains has to be in the statement."""
    assert set(dialects.COLUMNS) == {field.attname for field in Task._meta.concrete_fields}


def test_if_nobody_listens_no_row_is_returned(database):
    """The rows are written and counted.  MariaDB can't tell those that stayed the same."""
    store = UpsertStore(is_listened=lambda: False)
    store.write(batch(Status.DONE, range(2)))
    seen, note = statements(database)
    with note:
        written = store.write(batch(Status.RUNNING, range(5)))

    assert [sql for sql in seen if "RETURNING" in sql] == []
    assert len(seen) == 1
    assert written.changes == ()
    assert (written.rows, written.unchanged) == ((5, 0) if database == "mariadb" else (3, 2))
    assert Task.objects.filter(status="running").count() == 3


def test_a_batch_that_is_old_as_a_whole(database):
    """It takes one more look, and is not sent again and again."""
    for listened in (True, False):
        store = UpsertStore(is_listened=lambda listened=listened: listened)
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
    assert watermark.close(database, LIMIT_SECONDS)
    young = make_entry(make_transition(message_id=make_id(2), happened_at=time.monotonic() + 1))
    seen, note = statements(database)
    with note:
        assert store.write([*old, young]).rows == 1
        assert ["INSERT" in sql for sql in seen] == [True, False, True]
        seen.clear()
        assert store.write([young]).rows == 0
        assert sum("INSERT" in sql for sql in seen) == 1


def test_a_watermark_that_was_deleted(database):
    """Somebody empties all tables: the next flush makes it again."""
    store = UpsertStore()
    store.write(batch(Status.ENQUEUED, [1]))
    Watermark.objects.using(database).all().delete()

    assert store.write(batch(Status.DONE, [1])).rows == 1


def test_a_commit_that_was_never_heard_of_is_told_once(database):
    """Rows that an earlier try has written are changes; those that somebody has overtaken are
    not, and neither are those that are gone."""
    store = UpsertStore()
    entries = batch(Status.RUNNING, range(3))
    store.write(entries)
    store.write(batch(Status.DONE, [1]))
    Task.objects.filter(pk=make_id(2)).delete()
    for entry in entries:
        entry.uncertain = True

    changed = {change.task.pk.int for change in store.write(entries).changes}
    assert changed == {0, 2}, "the deleted one is written anew"


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
@given(values=st.lists(TEXTS))
@hypothesis_settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_text_fits_an_array(database, values):
    """PostgreSQL reads the literal as it was meant."""
    values = ["", *values]
    with connections[database].cursor() as cursor:
        cursor.execute("SELECT %s::text[]", [dialects._text_array(values)])
        assert cursor.fetchone()[0] == values
        cursor.execute("SELECT %s::text[]", [dialects._keys([None, *values])])
        assert cursor.fetchone()[0] == [None, *values]


def test_keys_of_every_kind(database):
    """A user model's key may be a number, a text or a UUID, as its column has it."""
    key = uuid.UUID(int=7)
    connection = connections[database]
    facts = [make_transition(user_pk=pk) for pk in (None, 3, "anna", "NULL", key)]
    if database == "postgres":
        (_, users, *_) = dialects.dialect_of(connection).parameters(facts, 0)
        assert users == '{NULL,"3","anna","NULL","' + str(key) + '"}'
        return
    (rows, _) = dialects.dialect_of(connection).parameters(facts, 0)
    place = dialects.COLUMNS.index("user_id")
    native = connection.features.has_native_uuid_field
    expected = [None, 3, "anna", "NULL", str(key) if native else key.hex]
    assert [row[place] for row in json.loads(rows)] == expected


def test_ties_are_broken_column_by_column(database):
    """MariaDB assigns one column after the other: each case differs in one more of them."""
    names = ["user_pk", "app_name", "model_name", "description", "queue_name", "actor_name"]
    store = UpsertStore()
    values = {**dict.fromkeys(names, "b"), "user_pk": 2, "attempt": 1}
    values.update(started_at=START + 1, enqueued_at=START + 1)
    order = [*names, "enqueued_at", "started_at", "attempt"]
    for place, name in enumerate(order):
        # Greater in one column, and smaller in all that are less significant.
        greater = dict(values)
        for lesser in order[:place]:
            greater[lesser] = {"user_pk": 1, "attempt": 0}.get(
                lesser, START if lesser.endswith("_at") else "a"
            )
        greater[name] = {"user_pk": 3, "attempt": 2}.get(
            name, START + 2 if name.endswith("_at") else "c"
        )
        for first, second in ((values, greater), (greater, values)):
            Task.objects.all().delete()
            for fact in (first, second):
                store.write([make_entry(make_transition(Status.RUNNING, **fact))])
            row = Task.objects.values().get()
            stored = {n: row["user_id" if n == "user_pk" else n] for n in names}
            assert stored == {n: greater[n] for n in names}, name
            assert row["attempt"] == greater["attempt"], name
