"""The instances of ``Task`` that receivers get."""

import pytest
from django.db.models.signals import post_init, pre_init

from taskstate.models import Task
from taskstate.stores import rows
from taskstate.transitions.status import Status
from tests.support.factories import START, make_transition


def make_task():
    details = {"progress": 7.0, "error": "E: x", "result": '{"a": [1]}', "metadata": "null"}
    transition = make_transition(Status.FAILED, started_at=START + 5, user_pk=3, **details)
    (task,) = rows.make_tasks([transition], "other")
    return task


def contents(task):
    state = vars(task._state)
    return {**vars(task), "_state": {name: state.get(name) for name in ("adding", "db")}}


def test_a_task_is_as_django_makes_it():
    """It is made without ``Model.__init__``, which takes five times as long."""
    fast = make_task()
    values = [getattr(fast, name) for name in rows._NAMES]

    assert contents(fast) == contents(Task.from_db("other", rows._NAMES, values))
    assert fast._state.fields_cache == {}
    assert fast.result == {"a": [1]}


@pytest.mark.parametrize("signal", [pre_init, post_init], ids=["pre_init", "post_init"])
def test_receivers_of_djangos_signals_get_each_instance(signal):
    """``Model.__init__`` sends them, so it is called if there are any receivers."""
    received = []

    def receive(sender, **_):
        received.append(sender)

    signal.connect(receive, sender=Task)
    try:
        make_task()
    finally:
        signal.disconnect(receive, sender=Task)

    assert received == [Task]
