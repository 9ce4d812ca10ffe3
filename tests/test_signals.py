"""``task_changed``: after the commit, once per changed row, whatever receivers do."""

import dramatiq
import pytest
from django.dispatch import receiver

import taskstate
from taskstate import middleware
from taskstate.middleware import StateMiddleware
from taskstate.signals import task_changed
from taskstate.stores import Change
from taskstate.transitions.status import Status
from tests.support.bench import Outage
from tests.support.factories import START, make_id, make_pending, make_transition
from tests.support.harness import Task, Workers, make_broker
from tests.support.limits import LIMIT_SECONDS


@pytest.fixture
def connect():
    """Connect receivers for this test."""
    connected = []

    def connect(fn):
        task_changed.connect(fn, sender=StateMiddleware, weak=False)
        connected.append(fn)
        return fn

    yield connect
    for fn in connected:
        task_changed.disconnect(fn, sender=StateMiddleware)


def changes(*numbers):
    return [
        Change(f"task {n}", make_pending(make_transition(message_id=make_id(n)))) for n in numbers
    ]


def test_an_error_of_a_receiver_is_logged_and_does_not_affect_the_others(connect, caplog):
    """They receive all tasks."""
    received = []

    @connect
    def broken(task, **kwargs):
        raise ValueError("broken receiver")

    @connect
    def sound(task, transitions, **kwargs):
        received.append((task, transitions))

    for change in changes(1, 2):
        middleware._announce(change)

    assert received == [("task 1", (Status.ENQUEUED,)), ("task 2", (Status.ENQUEUED,))]
    logged = [record for record in caplog.records if "broken receiver" in str(record.exc_info)]
    assert len(logged) == 2


def test_the_sender_is_the_middleware():
    """Receivers name one sender, whatever subclass a project lists."""
    received = []

    @receiver(task_changed, sender=StateMiddleware)
    def handle(sender, task, **kwargs):
        received.append((sender, task, sorted(kwargs)))

    middleware._announce(changes(1)[0])
    task_changed.disconnect(handle, sender=StateMiddleware)

    assert received == [(StateMiddleware, "task 1", ["signal", "transitions"])]


def test_a_receiver_sees_the_row_and_may_flush_and_track(sqlite, connect):
    """It runs after the commit, in the writer's thread, and may do what any code may."""
    state = StateMiddleware()
    rows = []

    @connect
    def read(task, **kwargs):
        rows.append(Task.objects.get(pk=task.pk).status)
        if len(rows) == 1:
            state._writer.push(make_transition(Status.RUNNING, message_id=make_id(2)))
            assert taskstate.flush(LIMIT_SECONDS)

    state._writer.push(make_transition(message_id=make_id(1)))
    assert taskstate.flush(LIMIT_SECONDS)

    assert rows == ["enqueued", "running"]


# The examples of the documentation.


@pytest.fixture
def examples(connect):
    """What its receivers do, by what they are for."""
    done = {"mailed": [], "notified": []}

    @connect
    def mail_when_it_has_failed_for_good(sender, task, transitions, **kwargs):
        if task.status == Status.FAILED:
            done["mailed"].append(task.description)

    @connect
    def notify_when_it_starts(sender, task, transitions, **kwargs):
        if Status.RUNNING in transitions:
            done["notified"].append(task.description)

    return done


@pytest.mark.parametrize("flushes", [True, False], ids=["in many flushes", "in few"])
def test_mail_when_it_has_failed_for_good_and_notify_when_it_starts(flushes, sqlite, examples):
    """Once each for a task that runs once, whatever progress it reports; a retry starts as well."""
    broker = make_broker()

    @dramatiq.actor(broker=broker, max_retries=1)
    def act(name, for_state=None):
        for number in range(5):
            taskstate.set_progress(number, 5)
            assert not flushes or taskstate.flush(LIMIT_SECONDS)
        if name == "bad":
            raise ValueError

    for name in ("good", "bad"):
        act.send(name, for_state={"description": name})
    with Workers(broker) as workers:
        workers.finish()

    assert examples["mailed"] == ["bad"]
    assert examples["notified"].count("good") == 1
    starts = examples["notified"].count("bad")
    assert starts == 2 if flushes else starts in {1, 2}


def test_a_start_whose_reply_was_lost_is_announced_with_the_next_progress(bench):
    """It is announced once, by the flush that was tried again."""
    bench.store.errors_after_commit = [Outage()]
    start = make_transition(Status.RUNNING)
    bench.writer.push(start)
    bench.writer._cycle.step()
    for number in (1, 2):
        bench.now += 3600
        bench.writer.push(make_transition(Status.RUNNING, at=START + number, progress=number))
        bench.writer._cycle.step()

    assert [change.pending.statuses for change in bench.announced] == [(Status.RUNNING,), ()]
