"""``task_changed``: after the commit, once per changed row, and nobody hurt."""

import pytest
from django.dispatch import receiver

import taskstate
from taskstate import middleware
from taskstate.middleware import StateMiddleware
from taskstate.signals import task_changed
from taskstate.stores import Change
from taskstate.transitions import Status
from tests.conftest import LIMIT_SECONDS
from tests.factories import make_entry, make_id, make_transition
from tests.harness import Task


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
        Change(f"task {n}", make_entry(make_transition(message_id=make_id(n)))) for n in numbers
    ]


def test_a_receiver_that_raises_is_logged_and_hurts_nobody(connect, caplog):
    """All others hear of all tasks."""
    heard = []

    @connect
    def broken(task, **kwargs):
        raise ValueError("broken receiver")

    @connect
    def sound(task, transitions, **kwargs):
        heard.append((task, transitions))

    for change in changes(1, 2):
        middleware._announce(change)

    assert heard == [("task 1", (Status.ENQUEUED,)), ("task 2", (Status.ENQUEUED,))]
    logged = [record for record in caplog.records if "broken receiver" in str(record.exc_info)]
    assert len(logged) == 2


def test_the_sender_is_the_middleware():
    """Receivers name one sender, whatever subclass a project lists."""
    heard = []

    @receiver(task_changed, sender=StateMiddleware)
    def handle(sender, task, **kwargs):
        heard.append((sender, task, sorted(kwargs)))

    middleware._announce(changes(1)[0])
    task_changed.disconnect(handle, sender=StateMiddleware)

    assert heard == [(StateMiddleware, "task 1", ["signal", "transitions"])]


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
