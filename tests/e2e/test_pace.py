"""What a quiet writer and a busy one do, with real threads and real databases."""

import threading

import dramatiq
from django.db import connections
from django.db.backends.signals import connection_created

import taskstate
from taskstate.middleware import StateMiddleware
from taskstate.models import Task
from taskstate.signals import task_changed
from taskstate.writer.thread import THREAD_NAME
from tests.support.factories import make_id, make_transition
from tests.support.harness import Workers, make_broker
from tests.support.limits import LIMIT_SECONDS


class Announcements:
    """Waits for signals: the statuses that were announced, one by one."""

    def __init__(self):
        self.statuses = []
        self.changed = threading.Condition()

    def __enter__(self):
        task_changed.connect(self.note, sender=StateMiddleware)
        return self

    def __exit__(self, *error):
        task_changed.disconnect(self.note, sender=StateMiddleware)

    def note(self, task, **kwargs):
        with self.changed:
            self.statuses.append(task.status)
            self.changed.notify_all()

    def wait_for(self, status):
        with self.changed:
            return self.changed.wait_for(lambda: status in self.statuses, LIMIT_SECONDS)


def test_one_push_does_not_wait_for_the_interval(database):
    """With an interval of a minute: the limit of this test is shorter."""
    assert LIMIT_SECONDS < 60
    state = StateMiddleware(flush_interval=60)
    with Announcements() as announced:
        state._writer.push(make_transition())
        assert announced.wait_for("enqueued")

    assert Task.objects.get().status == "enqueued"


def test_a_lone_task_shows_each_of_its_states(database):
    """Enqueued, running and done are each written while they are true, without a flush."""
    broker = make_broker(state=StateMiddleware(flush_interval=60))
    with Announcements() as announced:

        def act(for_state):
            assert announced.wait_for("running")

        send = dramatiq.actor(act, broker=broker, actor_name="act", max_retries=0).send
        send(for_state={})
        assert announced.wait_for("enqueued")
        with Workers(broker):
            assert announced.wait_for("done")

    assert announced.statuses == ["enqueued", "running", "done"]


def test_statements_per_batch_do_not_grow_with_traffic(database):
    """A hundred times the messages: as many statements per batch, and batches that are full.
    Where the backend limits parameters, the contract tests state what it is."""
    limit = connections[database].features.max_query_params
    size = 500 if limit is None or limit > 100_000 else 50
    cost = {count: statements_per_batch(count, size) for count in (size // 10, size * 10)}

    few, many = cost.values()
    assert few == many


def statements_per_batch(count, size):
    """Push so many messages; return the statements and batches of their writer's thread."""
    statements = []

    def note(execute, sql, params, many, context):
        if threading.current_thread().name == THREAD_NAME:
            statements.append(sql)
        return execute(sql, params, many, context)

    def watch(connection, **kwargs):
        if note not in connection.execute_wrappers:  # It is made again for each flush.
            connection.execute_wrappers.append(note)

    Task.objects.all().delete()
    state = StateMiddleware(flush_interval=60, max_batch_size=size)
    warm_up = make_transition(message_id=make_id(10**6))
    state._writer.push(warm_up)
    assert taskstate.flush(LIMIT_SECONDS)
    assert state._writer.stop(LIMIT_SECONDS)

    connection_created.connect(watch, weak=False)
    try:
        # All are there before the thread looks: batches are as full as they can be.
        start, state._writer.thread._start_soon = state._writer.thread._start_soon, lambda: None
        for number in range(count):
            state._writer.push(make_transition(message_id=make_id(number)))
        state._writer.thread._start_soon = start
        before = state._writer.stats().flushes
        assert taskstate.flush(LIMIT_SECONDS)
    finally:
        connection_created.disconnect(watch)
    batches = state._writer.stats().flushes - before
    assert batches == max(1, count // size)
    assert Task.objects.count() == count + 1
    assert state._writer.stop(LIMIT_SECONDS)
    return per_batch(statements, batches)


def per_batch(statements, batches):
    """The statements of one batch; a thread that begins may take some of its own, once."""
    ours = [sql for sql in statements if "taskstate_task" in sql]
    assert len(ours) % batches == 0
    return len(ours) // batches
