"""What every store has to answer, on every database."""

import datetime
import os
import random
import socket
import threading
import time
import uuid

import django
import pytest
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import connections, transaction
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from taskstate.models import Task, Watermark
from taskstate.stores import BadDataError, TimeLimitError, orm
from taskstate.stores.clock import current_time_sql
from taskstate.stores.dialects.base import Dialect
from taskstate.stores.fence import raise_fence, read_fence
from taskstate.stores.upsert import UpsertStore
from taskstate.transitions import sanitize
from taskstate.transitions.rank import rank_below_stamp
from taskstate.transitions.status import Status
from taskstate.transitions.transition import sort_key
from tests.support.factories import START, make_id, make_pending, make_transition
from tests.support.limits import LIMIT_SECONDS
from tests.support.stores import STORES, constraint, renamed_table, trigger
from tests.support.strategies import transitions


@pytest.fixture(params=STORES)
def store(request, database):
    return request.param()


@pytest.fixture(params=STORES)
def server_store(request, server_database):
    return request.param()


def moment(milliseconds):
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    return epoch + datetime.timedelta(milliseconds=milliseconds)


def row(number=1):
    return Task.objects.get(pk=make_id(number))


def columns(task):
    """The columns that a transition decides, without the times when it was written and seen."""
    names = {f.attname for f in Task._meta.concrete_fields} - {"written_at", "seen_at"}
    return {name: getattr(task, name) for name in names}


NOTHING = {
    "progress": None,
    "progress_text": None,
    "error": None,
    "user_error": None,
    "traceback": None,
    "next_attempt_at": None,
    "result": None,
    "metadata": None,
    "stored_message": None,
}
DETAILS = {
    "progress": 66.67,
    "progress_text": "Grüße, 😀",
    "error": 'Boom: "a", {b}, \\ NULL',
    "user_error": 'It has "boomed", {é}, \\ NULL',
    "traceback": 'Traceback\n  File "x.py", line 1\n\tBoom',
    "next_attempt_at": START + 60_000,
    "result": '{"rows":[1,2.5,null,"\\u00fc"]}',
    "metadata": '"a\\"b\\\\c"',
    "stored_message": '{"args":["%s"]}',
}
DETAIL_COLUMNS = {
    **DETAILS,
    "next_attempt_at": moment(START + 60_000),
    "result": {"rows": [1, 2.5, None, "ü"]},
    "metadata": 'a"b\\c',
}


@pytest.mark.parametrize(
    ("details", "detail_columns"),
    [({}, NOTHING), (DETAILS, DETAIL_COLUMNS)],
    ids=["usual", "details"],
)
def test_a_transition_becomes_a_row(store, database, details, detail_columns):
    """Field by field, and the task that is announced is that row."""
    transition = make_transition(
        Status.DONE,
        stamp=3,
        at=START + 5,
        actor_name="export",
        queue_name="slow",
        attempt=2,
        enqueued_at=START,
        started_at=START + 1,
        user_pk=7,
        tenant="Ä",
        description="Grüße, 😀",
        model_name="Invoice",
        app_name="shop",
        **details,
    )

    written = store.write([make_pending(transition)])

    expected = {
        "message_id": uuid.UUID(transition.message_id),
        "status": "done",
        "attempt": 2,
        "actor_name": "export",
        "queue_name": "slow",
        "user_id": 7,
        "tenant": "Ä",
        "description": "Grüße, 😀",
        "model_name": "Invoice",
        "app_name": "shop",
        "enqueued_at": moment(START),
        "started_at": moment(START + 1),
        "finished_at": moment(START + 5),
        "updated_at": moment(START + 5),
        "worker": f"{socket.gethostname()}:{os.getpid()}",
        "stamp": 3,
        "rank": rank_below_stamp(transition.rank),
        **detail_columns,
    }
    assert columns(row()) == expected
    (change,) = written.changes
    assert columns(change.task) == expected
    assert change.task._state.db == database
    assert not change.task._state.adding
    assert change.task == row()
    assert written.unchanged == 0


@pytest.mark.parametrize("status", Status)
def test_only_a_finished_task_has_finished_at(store, status):
    """And each has updated_at: when it happened, not when it was written."""
    store.write([make_pending(make_transition(status, at=START + 5))])

    is_finished = status in {Status.DONE, Status.FAILED, Status.SKIPPED}
    assert row().finished_at == (moment(START + 5) if is_finished else None)
    assert row().updated_at == moment(START + 5)


def test_a_newer_transition_replaces_the_whole_row(store):
    """Every column has the value of the newer transition."""
    store.write([make_pending(make_transition(Status.FAILED, attempt=3, description="old"))])
    newer = make_transition(Status.ENQUEUED, stamp=2, description="new", user_pk=1)

    written = store.write([make_pending(newer)])

    (change,) = written.changes
    assert not change.task._state.adding
    assert (row().status, row().attempt, row().description) == ("enqueued", 1, "new")
    assert (row().user_id, row().finished_at) == (1, None)


@pytest.mark.parametrize("others", [[], [make_transition(message_id=make_id(2), error="x")]])
def test_a_newer_transition_empties_what_it_does_not_hold(store, others):
    """Whether or not another transition of the batch has details."""
    store.write([make_pending(make_transition(Status.RUNNING, **DETAILS))])

    store.write([make_pending(transition) for transition in [make_transition(stamp=2), *others]])

    assert {name: getattr(row(), name) for name in DETAILS} == NOTHING
    assert row().worker is None


@pytest.mark.parametrize("character", ["x", "漢", "😀", '"', "\\", "\x01"], ids=ascii)
def test_the_longest_texts_are_kept_whole(store, character):
    """An encoder of the project's may write characters of several bytes."""
    lengths = {
        "stored_message": sanitize.STORED_MESSAGE_LENGTH,
        "traceback": sanitize.TRACEBACK_LENGTH,
    }
    texts = {name: character * length for name, length in lengths.items()}

    store.write([make_pending(make_transition(**texts))])

    assert {name: getattr(row(), name) for name in texts} == texts


@pytest.mark.parametrize("number", ["1e+23", "1e+308", "-0.0", "5e-324", "1.0"])
def test_a_number_that_the_database_returns_in_another_form_is_announced(store, number):
    """PostgreSQL returns 1e+23 as another whole number; the change is announced."""
    pending = make_pending(make_transition(result=number))
    assert len(store.write([pending]).changes) == 1
    assert store.write([pending]).changes == []

    pending.maybe_committed = True
    assert len(store.write([pending]).changes) == 1


def test_results_that_are_equal_in_python_only_are_a_change(store):
    """1 and true are equal there, and not in JSON."""
    store.write([make_pending(make_transition(result="[1]"))])
    store.write([make_pending(make_transition(Status.DONE, result="[true]"))])
    assert row().result[0] is True


def test_written_at_is_the_time_of_the_database(store, database):
    """It grows with each change, and with nothing else: it is a cursor for those who follow."""
    store.write([make_pending(make_transition(at=START))])
    first = row().written_at
    store.write([make_pending(make_transition(at=START - 1))])
    assert row().written_at == first

    with connections[database].cursor() as cursor:
        cursor.execute(f"SELECT {current_time_sql(connections[database])}")
        (before,) = cursor.fetchone()
    store.write([make_pending(make_transition(Status.DONE))])
    assert first <= before <= row().written_at + 1000  # SQLite's clock has milliseconds.
    assert abs(before / 1_000_000 - time.time()) < 3600


def test_an_older_transition_changes_nothing(store):
    """No signal for a write that lost."""
    store.write([make_pending(make_transition(Status.DONE, description="done"))])
    before = columns(row())

    written = store.write([make_pending(make_transition(Status.RUNNING, description="late"))])

    assert (list(written.changes), written.unchanged) == ([], 1)
    assert columns(row()) == before


def test_the_same_transition_again_changes_nothing(store):
    """Unless the reply to its first commit was lost: then it counts as changed."""
    pending = make_pending(make_transition(Status.DONE, started_at=START, user_pk=3))
    store.write([pending])
    assert store.write([pending]).changes == []

    pending.maybe_committed = True

    (change,) = store.write([pending]).changes
    assert change.task == row()


def test_a_batch_may_hold_newer_older_and_repeated_transitions(store):
    """In any order, and together with new messages."""
    old = [make_pending(make_transition(Status.RUNNING, message_id=make_id(n))) for n in range(30)]
    store.write(old)
    batch = [
        *(make_pending(make_transition(Status.DONE, message_id=make_id(n))) for n in range(10)),
        *(
            make_pending(make_transition(Status.ENQUEUED, message_id=make_id(n)))
            for n in range(10, 20)
        ),
        *old[20:],
        *(
            make_pending(make_transition(Status.DELAYED, message_id=make_id(n)))
            for n in range(30, 40)
        ),
    ]
    random.shuffle(batch)

    written = store.write(batch)

    statuses = ["done"] * 10 + ["running"] * 20 + ["delayed"] * 10
    assert [row(number).status for number in range(40)] == statuses
    changed = {str(change.task.message_id) for change in written.changes}
    assert changed == {make_id(n) for n in [*range(10), *range(30, 40)]}
    assert written.unchanged == 20


def test_a_batch_may_have_more_rows_than_the_database_takes_parameters(store):
    """More rows than some databases take parameters."""
    batch = [make_pending(make_transition(message_id=make_id(n))) for n in range(2500)]
    assert len(store.write(batch).changes) == 2500
    done = [
        make_pending(make_transition(Status.DONE, message_id=make_id(n), started_at=START))
        for n in range(2500)
    ]

    assert len(store.write(done).changes) == 2500
    assert Task.objects.filter(status="done", started_at__isnull=False).count() == 2500


@pytest.mark.parametrize(
    ("lesser", "greater"),
    [
        ({"attempt": 1}, {"attempt": 2}),
        ({"started_at": None}, {"started_at": START}),
        ({"started_at": START}, {"started_at": START + 1}),
        ({"started_at": None, "enqueued_at": START + 9}, {"started_at": START}),
        ({"enqueued_at": START}, {"enqueued_at": START + 1}),
        (
            {"enqueued_at": START, "started_at": START},
            {"enqueued_at": START + 1, "started_at": START},
        ),
        ({"actor_name": "a"}, {"actor_name": "b"}),
        ({"queue_name": "a"}, {"queue_name": "b"}),
        ({"description": "B"}, {"description": "a"}),
        ({"model_name": ""}, {"model_name": "x"}),
        ({"app_name": "x"}, {"app_name": "xy"}),
        ({"user_pk": None}, {"user_pk": 1}),
        ({"user_pk": 10}, {"user_pk": 9}),
    ],
    ids=str,
)
def test_other_values_decide_between_equal_ranks(lesser, greater, store, database):
    """The same one wins whatever the order, in the table as in memory."""
    transitions = [
        make_transition(Status.RUNNING, happened_at=1.0, **part) for part in (lesser, greater)
    ]
    assert max(transitions, key=sort_key) is transitions[1]
    rows = []
    for order in (transitions, transitions[::-1]):
        Task.objects.using(database).all().delete()
        changes = [len(store.write([make_pending(transition)]).changes) for transition in order]
        assert changes == ([1, 1] if order is transitions else [1, 0])
        rows.append(columns(row()))

    assert rows[0] == rows[1]
    name = "user_id" if "user_pk" in greater else next(iter(greater))
    value = next(iter(greater.values()))
    expected = moment(value) if name.endswith("_at") else value
    assert rows[0][name] == expected


# One batch may be anything: Hypothesis splits one message's transitions over processes.
@given(
    transitions=st.lists(transitions(), min_size=1, max_size=6),
    order=st.randoms(use_true_random=False),
)
@hypothesis_settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_repetition_and_split_ends_in_the_same_row(store, database, transitions, order):
    """The row is the greatest transition, whether they are merged in memory or in the database."""
    Task.objects.using(database).all().delete()
    winner = max(transitions, key=sort_key)
    expected = make_pending(winner)
    repeated = transitions + order.choices(transitions, k=2)
    order.shuffle(repeated)
    while repeated:
        size = order.randint(1, len(repeated))
        batch, repeated = repeated[:size], repeated[size:]
        type(store)().write([make_pending(*batch)])

    stored = columns(row())
    Task.objects.using(database).all().delete()
    store.write([expected])
    assert stored == columns(row())


def test_a_clear_between_two_batches(store, database):
    """What happened before it stays dead, what happens after it is written: in the same batch,
    and though the store has written before."""
    store.write([make_pending(make_transition(message_id=make_id(9)))])
    before = [
        make_pending(make_transition(Status.RUNNING, message_id=make_id(n))) for n in range(3)
    ]
    Task.objects.all().delete()
    assert raise_fence(database, LIMIT_SECONDS)
    after = make_transition(message_id=make_id(5), happened_at=time.monotonic() + 1)

    written = store.write([*before, make_pending(after)])

    assert (written.rows, written.unchanged) == (1, 3)
    assert [change.task.pk.int for change in written.changes] == [5]
    assert [task.pk.int for task in Task.objects.all()] == [5]
    assert store.write(before).rows == 0
    assert Task.objects.count() == 1


def test_a_clear_that_is_not_finished(store, database):
    """A row that an earlier try has written may still be there: what is younger than the clear is
    written all the same."""
    old = make_pending(make_transition(Status.RUNNING))
    store.write([old])
    old.maybe_committed = True
    assert raise_fence(database, LIMIT_SECONDS)
    young = make_transition(message_id=make_id(2), happened_at=time.monotonic() + 1)

    written = store.write([old, make_pending(young)])

    assert make_id(2) in {str(change.task.pk) for change in written.changes}
    assert row(2).status == "enqueued"


def test_a_row_that_was_marked_as_lost_is_not_announced_again(store):
    """It has the rank of the transition whose reply was lost, but another status."""
    pending = make_pending(make_transition(Status.RUNNING))
    store.write([pending])
    pending.maybe_committed = True
    Task.objects.update(status=Status.FAILED, error="lost")

    assert list(store.write([pending]).changes) == []
    assert row().status == "failed"


def test_a_clock_that_is_set_back(store, database):
    """A clear that lies in the future by the database's clock has happened: what follows is
    written."""
    store.write([make_pending(make_transition())])
    Watermark.objects.using(database).update(cleared_at=2**62 // 1000)
    later = make_pending(make_transition(stamp=2, happened_at=time.monotonic() + 1))

    assert store.write([later]).rows == 1


def test_no_two_clears_leave_the_same_mark(database):
    """However quickly they follow each other: a store distinguishes them by it."""
    marks = []
    for _ in range(5):
        assert raise_fence(database, LIMIT_SECONDS)
        marks.append(read_fence(connections[database], time.monotonic).watermark)

    assert marks == sorted(set(marks))


NASTY = ['"', "\\", '\\"', "{}", "{,}", "NULL", "null", "", " ", "%s", "%", "'", "[1]", "a,b"]
NASTY += ["\n\r\t", "😀"]


def test_texts_arrive_as_they_are(store):
    """Whatever a store wraps them in on their way: quotes, braces, commas, backslashes."""
    transitions = [
        make_transition(message_id=make_id(n), description=text, app_name=text, model_name=text)
        for n, text in enumerate(NASTY)
    ]
    store.write([make_pending(transition) for transition in transitions])

    assert [row(n).description for n in range(len(NASTY))] == NASTY
    assert [row(n).app_name for n in range(len(NASTY))] == NASTY
    assert store.write([make_pending(transition) for transition in transitions]).rows == 0


@pytest.mark.parametrize("milliseconds", [0, 1, 999, 1000, START + 7, 2**42 - 1])
def test_times_are_exact(store, milliseconds):
    """To the millisecond, from 1970 to 2109, and found again by a query for just that time."""
    store.write(
        [
            make_pending(
                make_transition(
                    Status.DONE,
                    at=milliseconds,
                    enqueued_at=milliseconds,
                    started_at=milliseconds,
                )
            )
        ]
    )
    found = Task.objects.get(enqueued_at=moment(milliseconds), updated_at=moment(milliseconds))

    assert found.started_at == found.finished_at == moment(milliseconds)


def test_bad_data_raises_bad_data_error(store, database):
    """And nothing of the batch is committed: the writer looks for the row."""
    bad = make_transition(message_id=make_id(2), actor_name="x" * 301)
    if database == "default":  # SQLite takes any length, and rejects other things.
        bad = make_transition(message_id=make_id(2), user_pk=2**70)

    with pytest.raises(BadDataError):
        store.write([make_pending(make_transition()), make_pending(bad)])

    assert Task.objects.count() == 0


VALUE_ERRORS = [ValueError, TypeError, OverflowError, UnicodeError, ValidationError, KeyError]


def raise_for(description, error, monkeypatch):
    """Let the preparation of a row with this description fail, in both stores."""
    make_tasks, prepare = orm.make_tasks, Dialect.statement_for

    def check(transitions):
        if any(each.fields.description == description for each in transitions):
            raise error("not valid")

    def make_tasks_or_raise(transitions, alias):
        check(transitions)
        return make_tasks(transitions, alias)

    def prepare_or_raise(self, transitions, version, *, returning):
        check(transitions)
        return prepare(self, transitions, version, returning=returning)

    monkeypatch.setattr(orm, "make_tasks", make_tasks_or_raise)
    monkeypatch.setattr(Dialect, "statement_for", prepare_or_raise)


@pytest.mark.parametrize("error", VALUE_ERRORS)
def test_a_value_that_the_client_rejects_is_bad_data(store, error, monkeypatch):
    """Django's fields or the driver's: nothing was sent, so the connection stays, and the others
    are written."""
    raise_for("odd", error, monkeypatch)
    odd = make_pending(make_transition(description="odd"))

    with pytest.raises(BadDataError, match=error.__name__):
        store.write([odd, make_pending(make_transition(message_id=make_id(2)))])

    assert store.write([make_pending(make_transition(message_id=make_id(2)))]).rows == 1
    assert Task.objects.count() == 1


@pytest.mark.parametrize("error", VALUE_ERRORS)
def test_an_error_of_a_value_is_an_outage_if_the_connection_is_broken(
    store, database, error, monkeypatch
):
    """A driver may raise anything then: it is an outage, and a new connection follows."""
    store.write([make_pending(make_transition())])
    raise_for("", error, monkeypatch)
    # Of the connection itself: that is what other tests have patched, and it keeps what it had.
    monkeypatch.setattr(connections[database], "is_usable", lambda: False)

    with pytest.raises(error):
        store.write([make_pending(make_transition(Status.DONE))])

    monkeypatch.undo()
    assert store.write([make_pending(make_transition(Status.DONE))]).rows == 1


def test_an_error_before_the_batch_is_an_outage(store, database, monkeypatch):
    """An option of the connection's that its driver doesn't know is a TypeError as well."""
    connection = connections[database]
    connection.close()

    def connect(params):
        raise TypeError("an unexpected keyword argument")

    monkeypatch.setattr(connection, "get_new_connection", connect)
    with pytest.raises(TypeError, match="unexpected"):
        store.write([make_pending(make_transition())])


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_a_batch_that_the_server_may_not_take_is_not_sent(store, database):
    """The flusher halves it, until it fits or a row is alone: that one the server judges.  The
    connection stays."""
    store._packet_bytes = 20_000.0
    batch = [make_pending(make_transition(message_id=make_id(n))) for n in (1, 2)]
    connections[database].ensure_connection()
    connection = connections[database].connection

    with pytest.raises(BadDataError, match="max_allowed_packet"):
        store.write(batch)
    assert Task.objects.count() == 0
    store.close_stale_connections()
    assert connections[database].connection is connection

    for pending in batch:
        store.write([pending])
    assert Task.objects.count() == 2


def test_a_triggers_own_error_is_bad_data(store, database):
    """A project may forbid rows; the others are written."""
    with trigger(database):
        with pytest.raises(BadDataError):
            store.write([make_pending(make_transition(app_name="forbidden"))])
        store.write([make_pending(make_transition(message_id=make_id(2)))])
        with pytest.raises(BadDataError):
            store.write(
                [
                    make_pending(
                        make_transition(Status.DONE, message_id=make_id(2), app_name="forbidden")
                    )
                ]
            )
    assert row(2).status == "enqueued"


def test_a_row_that_a_check_rejects_is_bad_data(store, database):
    """Whether the row is new or not: never is it left out without a word."""
    forbidden = [
        make_pending(make_transition(Status.DONE, message_id=make_id(n), app_name="forbidden"))
        for n in (1, 2)
    ]
    with constraint(database):
        store.write([make_pending(make_transition(message_id=make_id(2)))])
        for pending in forbidden:
            with pytest.raises(BadDataError):
                store.write([pending])

        assert [(task.pk.int, task.status) for task in Task.objects.all()] == [(2, "enqueued")]


def test_a_row_that_is_deleted_while_it_is_inserted(store, database):
    """The admin may delete it.  It stays deleted, and nothing fails."""
    deleted = []

    def delete_once(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        if "INSERT" in sql and "taskstate_task" in sql and not deleted:
            deleted.append(1)
            with connections[database].cursor() as cursor:
                cursor.execute("DELETE FROM taskstate_task")
        return result

    with connections[database].execute_wrapper(delete_once):
        store.write([make_pending(make_transition())])

    assert deleted == [1]
    assert Task.objects.count() == 0
    assert len(store.write([make_pending(make_transition(Status.DONE))]).changes) == 1


# MariaDB has no trigger that could.
@pytest.mark.parametrize("database", ["default", "postgres"], indirect=True)
def test_a_row_that_a_trigger_drops_is_no_change(store, database):
    """It is that one row's fate: all others are written, and no signal is sent for it."""
    with trigger(database, trigger.DROP_ROW):
        dropped = make_transition(app_name="forbidden")
        written = store.write(
            [make_pending(dropped), make_pending(make_transition(message_id=make_id(2)))]
        )

    assert [change.task.message_id for change in written.changes] == [row(2).message_id]
    assert (written.rows, written.unchanged, Task.objects.count()) == (1, 1, 1)


def test_a_missing_table_is_an_outage(store, database):
    """The batch is kept and tried again until the table is migrated.  No row is rejected."""
    with renamed_table(database), pytest.raises(Exception, match="taskstate_task") as caught:
        store.write([make_pending(make_transition())])

    assert not isinstance(caught.value, BadDataError)
    store.write([make_pending(make_transition())])
    assert row().status == "enqueued"


def test_a_write_waits_for_a_lock_for_a_limited_time(server_store, server_database):
    """A statement that waits for a lock delays every pending row.  It ends, and is tried again
    later.  The settings of other connections are not changed."""
    server_store.write([make_pending(make_transition())])
    before = lock_limit(server_database)
    failures = []

    def write():
        try:
            server_store.write([make_pending(make_transition(Status.DONE))])
        except Exception as error:
            failures.append(error)
        finally:
            server_store.close()

    with transaction.atomic(using=server_database):
        Task.objects.select_for_update().get(pk=make_id(1))
        writer = threading.Thread(target=write)
        writer.start()
        writer.join(LIMIT_SECONDS)
        assert not writer.is_alive()

    assert len(failures) == 1
    assert not isinstance(failures[0], BadDataError)
    assert lock_limit(server_database) == before
    server_store.write([make_pending(make_transition(Status.DONE))])
    assert row().status == "done"
    assert lock_limit(server_database) == before


TIME_LIMIT = {
    "postgresql": ("SET statement_timeout = '50ms'", "SET statement_timeout = 0"),
    "mysql": ("SET max_statement_time = 0.05", "SET max_statement_time = 0"),
}
SLOW = {
    "postgresql": [
        trigger.CREATE["postgresql"][0].replace(
            "RAISE EXCEPTION 'forbidden'", "PERFORM pg_sleep(9)"
        ),
        trigger.CREATE["postgresql"][1],
    ],
    "mysql": [
        sql.replace(
            "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'forbidden'", "SET @slept = SLEEP(9)"
        )
        for sql in trigger.CREATE["mysql"]
    ],
}


def test_a_statement_over_the_servers_time_limit(server_store, server_database):
    """It is called so, for the flusher to halve the batch; nothing is committed, and the connection
    is as good as before."""
    connection = connections[server_database]
    limit, no_limit = TIME_LIMIT[connection.vendor]
    others = [make_pending(make_transition(message_id=make_id(n))) for n in (2, 3)]
    server_store.write(others[:1])
    with trigger(server_database, SLOW):
        with connection.cursor() as cursor:
            cursor.execute(limit)
        with pytest.raises(TimeLimitError):
            server_store.write([make_pending(make_transition(app_name="forbidden")), *others])
        raw = connection.connection
        assert server_store.write(others).rows == 1
        assert connection.connection is raw
        with connection.cursor() as cursor:
            cursor.execute(no_limit)

    assert Task.objects.count() == 2


def lock_limit(alias):
    query = {
        "postgresql": "SELECT current_setting('lock_timeout')",
        "mysql": "SELECT @@SESSION.innodb_lock_wait_timeout",
    }[connections[alias].vendor]
    with connections[alias].cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


def test_inside_a_transaction_it_takes_a_savepoint(store, database):
    """SYNCHRONOUS in a TestCase: a failure leaves the transaction usable, and its settings."""
    with transaction.atomic(using=database):
        before = None if database == "default" else lock_limit(database)
        store.write([make_pending(make_transition())])
        with pytest.raises(BadDataError):
            store.write([make_pending(make_transition(message_id=make_id(2), user_pk=2**70))])
        assert Task.objects.count() == 1
        assert before is None or lock_limit(database) == before
        transaction.set_rollback(True, using=database)

    assert Task.objects.count() == 0


def test_the_cost_of_a_batch_does_not_grow(store, database):
    """Statements per batch are the same for 10 and for 1,000 rows.  Where a backend limits
    parameters, as Django up to 5.2 does for SQLite (999), rows are written in portions."""
    store.write([make_pending(make_transition())])  # The first batch ever makes the watermark.
    counts = [statements_for(store, database, rows) for rows in (10, 1000)]

    if isinstance(store, UpsertStore):
        assert counts == [{"insert": 1, "update": 1}] * 2
        return
    limit = connections[database].features.max_query_params
    if limit is None or limit > 100_000:
        assert counts[0] == counts[1]
        return
    # One statement to begin, two for the fence; the keys are read before and after an insert.
    fields = Task._meta.concrete_fields
    key_portions = portions(1000, limit)
    insert_portions = portions(1000, batch_size(database, fields))
    if django.VERSION < (4, 1):
        fields = ["pk", "pk", "status", "finished", "rank", "worker", "written_at"]
    update_portions = portions(1000, batch_size(database, fields))
    assert counts[1]["insert"] == 3 + 2 * key_portions + insert_portions
    assert counts[1]["update"] == 3 + key_portions + update_portions


def portions(rows, size):
    return -(-rows // size)


def batch_size(alias, fields):
    fields = [Task._meta.pk if isinstance(field, str) else field for field in fields]
    return connections[alias].ops.bulk_batch_size(fields, [None] * 1000)


def statements_for(store, alias, rows):
    Task.objects.using(alias).all().delete()
    counts = {}
    for name, status in [("insert", Status.ENQUEUED), ("update", Status.DONE)]:
        batch = [
            make_pending(make_transition(status, message_id=make_id(n), started_at=START))
            for n in range(rows)
        ]
        statements = []

        def count(execute, sql, params, many, context, statements=statements):
            statements.append(sql)
            return execute(sql, params, many, context)

        with connections[alias].execute_wrapper(count):
            assert len(store.write(batch).changes) == rows
        counts[name] = len(statements)
    return counts


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/New_York", "UTC"])
def test_times_without_time_zones(store, settings, zone):
    """With USE_TZ off the columns hold the local time, as Django has it, and merge alike."""
    settings.USE_TZ = False
    settings.TIME_ZONE = zone
    pending = make_pending(make_transition(Status.DONE, at=START + 1, started_at=START))
    store.write([pending])
    assert store.write([pending]).changes == []

    # The hour that is there twice when summer time ends, with no word on which one it is.
    twice = 1_604_208_600_000  # 2020-11-01 05:30 UTC, 01:30 in New York
    for status in (Status.RUNNING, Status.DONE):
        store.write(
            [
                make_pending(
                    make_transition(
                        status, at=twice, enqueued_at=twice, started_at=twice, message_id=make_id(2)
                    )
                )
            ]
        )
    assert row(2).status == "done"

    local = row().updated_at
    assert local.tzinfo is None
    assert local.astimezone() == moment(START + 1)


def test_a_user_of_an_open_transaction(server_store, server_database):
    """The user's row is not committed yet, or never will be: the task is written all the same."""
    User = get_user_model()
    with transaction.atomic(using=server_database):
        user = User.objects.using(server_database).create(username="anna")
        thread = threading.Thread(
            target=lambda: (
                server_store.write([make_pending(make_transition(user_pk=user.pk))]),
                server_store.close(),
            )
        )
        thread.start()
        thread.join(LIMIT_SECONDS)
        assert row().user_id == user.pk
        transaction.set_rollback(True, using=server_database)

    assert not User.objects.using(server_database).filter(pk=user.pk).exists()
    assert row().user_id == user.pk
    assert list(Task.objects.for_user(user)) == [row()]
