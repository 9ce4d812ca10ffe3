"""Old tasks: which are deleted, in what batches, by the module itself and by the actor."""

import datetime
import importlib
import logging
import sys
import threading
import time

import dramatiq
import pytest
from django.db import DatabaseError, connections, transaction
from django.db.models.signals import post_delete
from django.test.utils import CaptureQueriesContext
from dramatiq import middleware as dm
from dramatiq.brokers.stub import StubBroker

from taskstate import retention
from taskstate.models import Status, Task, Watermark
from taskstate.stores import lock_timeout
from taskstate.stores.orm import OrmStore
from taskstate.stores.upsert import UpsertStore
from taskstate.transitions.status import FINISHED
from tests.support.factories import make_id, make_pending, make_transition
from tests.support.harness import Workers
from tests.support.limits import LIMIT_SECONDS
from tests.support.logs import logging_to

HOUR = 3_600_000
DAY = 24 * HOUR


def ago(milliseconds):
    return int(time.time() * 1000) - milliseconds


def transition(number, status=Status.DONE, age=2 * DAY, enqueued=0, **values):
    """Of an age in milliseconds, enqueued so long before."""
    at = ago(age)
    values = {"message_id": make_id(number), "enqueued_at": at - enqueued, **values}
    return make_transition(status, at=at, **values)


def write(*transitions, store=OrmStore):
    store().write([make_pending(each) for each in transitions])


def numbers():
    return sorted(pk.int for pk in Task.objects.values_list("pk", flat=True))


def delete(batch_size=1000, older_than=datetime.timedelta(days=1), statuses=FINISHED):
    return list(retention.delete(retention.old_tasks(older_than, statuses), batch_size))


def test_the_last_transition_counts(database):
    """Not when it was enqueued: that may be long ago, and it may have run for days."""
    write(
        transition(1, age=25 * HOUR),
        transition(2, age=23 * HOUR),
        transition(3, age=23 * HOUR, enqueued=30 * DAY),
        transition(4, age=25 * HOUR, enqueued=30 * DAY),
    )

    assert delete() == [2]
    assert numbers() == [2, 3]


def test_clocks_may_differ(database):
    """The host that sent a message may be hours ahead of the one that ended it."""
    write(transition(1, age=25 * HOUR, enqueued=-14 * HOUR))

    assert delete() == [1]


@pytest.mark.parametrize("wanted", [FINISHED, [Status.FAILED], ["done", "running"], "done"])
def test_only_these_statuses(wanted, sqlite):
    """By default the finished ones."""
    write(*(transition(number, status) for number, status in enumerate(Status)))
    delete(statuses=wanted)

    left = {task.status for task in Task.objects.all()}
    assert left == set(Status.values) - set([wanted] if isinstance(wanted, str) else wanted)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_batches(database, size):
    """Of any size, however many were enqueued in the same millisecond; what stays is in between."""
    at = ago(2 * DAY)
    write(*(transition(n, enqueued_at=at + n // 4, message_id=make_id(n)) for n in range(10)))
    write(*(transition(n, Status.RUNNING, enqueued_at=at + n % 3) for n in range(10, 16)))

    counts = delete(size)

    assert sum(counts) == 10
    assert max(counts) <= size
    assert numbers() == list(range(10, 16))


def test_more_than_sqlite_takes_in_a_statement(database):
    """Before 3.32 it takes 999 parameters."""
    write(*(transition(n) for n in range(2100)))

    assert sum(delete(batch_size=retention.MAX_BATCH_SIZE)) == 2100
    assert numbers() == []


def test_two_statements_a_batch(database):
    """One finds the keys, the other deletes them: no row is loaded."""
    write(*(transition(n) for n in range(20)))
    with CaptureQueriesContext(connections[database]) as queries:
        delete(batch_size=10)

    texts = [query["sql"] for query in queries if "description" not in query["sql"]]
    assert sum("DELETE" in text for text in texts) == 2
    assert sum(text.startswith("SELECT") and "taskstate_task" in text for text in texts) == 3


def test_each_batch_is_committed(server_database):
    """A delete that is interrupted has deleted the batches so far."""
    write(*(transition(n) for n in range(10)))
    batches = retention.delete(retention.old_tasks(datetime.timedelta(days=1)), 4)
    next(batches)
    batches.close()
    connections[server_database].close()

    assert len(numbers()) == 6


def test_what_changes_meanwhile_stays(database, monkeypatch):
    """A task that runs again between its being found and its being deleted."""
    write(transition(1), transition(2))
    delete_batch = retention._delete_batch

    def run_again(tasks, keys):
        write(transition(1, Status.RUNNING, age=0, stamp=2))
        return delete_batch(tasks, keys)

    monkeypatch.setattr(retention, "_delete_batch", run_again)

    assert delete() == [1]
    assert Task.objects.get().status == "running"


@pytest.mark.parametrize("store", [OrmStore, UpsertStore])
def test_what_is_pending_elsewhere_is_still_written(database, store):
    """No watermark is left, unlike after a clear of all tasks: a state that happened before the
    delete, and is written after it, is of a task that stays."""
    write(transition(1), transition(2, Status.RUNNING))
    held = transition(2, Status.DONE, age=HOUR, happened_at=time.monotonic() - 3600)
    marks = list(Watermark.objects.using(database).values_list("cleared_at", flat=True))
    delete()
    write(held, store=store)

    assert Task.objects.get().status == "done"
    assert marks == list(Watermark.objects.using(database).values_list("cleared_at", flat=True))


def test_a_delete_waits_for_locked_rows(server_database, monkeypatch):
    """It waits for some seconds at a time, since flushes may need the same rows."""
    write(transition(1), transition(2))
    monkeypatch.setattr(lock_timeout, "LOCK_WAIT_SECONDS", 1)
    tried, release, held = threading.Event(), threading.Event(), threading.Event()

    def hold():
        with transaction.atomic(using=server_database):
            Task.objects.filter(pk=make_id(1)).update(attempt=2)
            held.set()
            release.wait(LIMIT_SECONDS)
        connections.close_all()

    class Handler(logging.Handler):
        def emit(self, record):
            if "trying again" in record.getMessage():
                tried.set()
                release.set()

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(LIMIT_SECONDS)
    with logging_to(Handler()):
        assert delete() == [2]
    holder.join(LIMIT_SECONDS)

    assert tried.is_set()
    assert numbers() == []


def test_a_delete_waits_for_a_limited_time(server_database, monkeypatch):
    """The error is the database's own."""
    write(transition(1))
    monkeypatch.setattr(retention, "TRIES", 1)
    other = connections[server_database].copy()
    try:
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute("UPDATE taskstate_task SET attempt = 2")
        with pytest.raises(DatabaseError):
            delete()
        assert numbers() == [1]
    finally:
        other.rollback()
        other.close()


def test_delete_signals_are_sent(sqlite):
    """One for each task."""
    seen = []

    def listen(instance, **kwargs):
        seen.append(instance.pk.int)

    write(transition(1), transition(2))
    post_delete.connect(listen, sender=Task)
    try:
        assert delete() == [2]
    finally:
        post_delete.disconnect(listen, sender=Task)

    assert sorted(seen) == [1, 2]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"statuses": ["done", "gone"]},
            "'gone' is not a status.*enqueued, delayed, running, done",
        ),
        ({"statuses": []}, "No status is given"),
        ({"older_than": datetime.timedelta(seconds=59)}, "59 seconds is too short.*60s or more"),
        ({"older_than": -datetime.timedelta(days=1)}, "too short"),
    ],
)
def test_bad_values(sqlite, values, message):
    """The error states what is valid."""
    with pytest.raises(ValueError, match=message):
        delete(**values)


def test_an_age_beyond_the_calendar(database):
    """No task is that old."""
    write(transition(1))

    assert delete(older_than=datetime.timedelta(days=999_999)) == []


def test_an_index_finds_them(sqlite):
    """The one on the time that never changes."""
    plan = retention.old_tasks(datetime.timedelta(days=1)).order_by("enqueued_at").explain()

    assert "taskstate_task_enqueued_at (enqueued_at<?)" in plan


class Scheduled:
    """The actor on a broker of its own, with workers."""

    def __init__(self, *middleware):
        before = dramatiq.broker.global_broker
        self.broker = StubBroker(middleware=list(middleware))
        dramatiq.set_broker(self.broker)
        try:
            sys.modules.pop("taskstate.actors", None)
            self.module = importlib.import_module("taskstate.actors")
        finally:
            dramatiq.set_broker(before)
        self.actor = self.module.delete_old_tasks

    def run(self, *args, **kwargs):
        self.actor.send(*args, **kwargs)
        with Workers(self.broker, threads=1) as workers:
            workers.join()
        connections.close_all()


class CloseConnections(dm.Middleware):
    def after_process_message(self, broker, message, *, result=None, exception=None):
        connections.close_all()

    after_skip_message = after_process_message


class Outcomes(dm.Middleware):
    """Notes how each run ended."""

    def __init__(self):
        self.exceptions = []

    def after_process_message(self, broker, message, *, result=None, exception=None):
        self.exceptions.append(exception)


def test_the_actor_deletes(database):
    """By default what is finished and 30 days old."""
    write(transition(1, age=31 * DAY), transition(2, age=29 * DAY))
    write(transition(3, Status.RUNNING, age=31 * DAY))
    scheduled = Scheduled(CloseConnections(), dm.TimeLimit(), dm.Retries())
    scheduled.run()
    assert numbers() == [2, 3]

    scheduled.run(older_than="1d", statuses=["done", "running"], batch_size=1)
    assert numbers() == []


def test_the_actor_goes_on_in_a_next_message(sqlite):
    """After its share of time, with the same arguments, until nothing is left."""
    write(*(transition(n) for n in range(5)))
    write(transition(5, Status.FAILED))
    outcomes = Outcomes()
    scheduled = Scheduled(CloseConnections(), outcomes)
    scheduled.module.SECONDS_PER_MESSAGE = 0.0
    scheduled.run("1d", ("done",), 2)

    assert numbers() == [5]
    # Of two, two, one and no task.
    assert outcomes.exceptions == [None] * 4


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("soon",), ValueError("older_than: 'soon' is not a valid age;")),
        (("1d", ["gone"]), ValueError("'gone' is not a status of a task;")),
        (("1d", ["done"], 0), ValueError("A batch size of 0 is out of range;")),
    ],
)
def test_wrong_arguments_are_not_tried_again(sqlite, arguments, error, caplog):
    """They fail at once, and the log states what is wrong."""
    outcomes = Outcomes()
    scheduled = Scheduled(CloseConnections(), dm.Retries(min_backoff=1, max_backoff=2), outcomes)
    scheduled.run(*arguments)

    (raised,) = outcomes.exceptions
    assert type(raised) is type(error)
    assert str(raised).startswith(str(error))
    (record,) = [each for each in caplog.records if each.name.startswith("taskstate")]
    assert (record.levelname, str(error) in record.getMessage()) == ("ERROR", True)


def test_the_actor_needs_no_middleware(sqlite):
    """Dramatiq would reject an option whose middleware a project has left out."""
    assert Scheduled().actor.options == {}
    assert Scheduled(dm.TimeLimit()).actor.options == {"time_limit": 600_000}


def test_the_actor_has_a_name_of_its_own(sqlite):
    """django_dramatiq has one that is called delete_old_tasks, and the last of a name wins."""
    assert Scheduled().actor.actor_name == "taskstate.delete_old_tasks"
