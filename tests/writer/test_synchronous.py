"""``SYNCHRONOUS``: by itself, and in a project's own tests."""

import asyncio
import threading

import dramatiq
import pytest
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from dramatiq import worker as dramatiq_worker

import taskstate
from taskstate.middleware import StateMiddleware
from taskstate.models import Task
from taskstate.transitions.status import Status
from taskstate.writer.thread import THREAD_NAME
from tests.support.bench import Bench, Outage, has_emoji
from tests.support.factories import make_id, make_transition
from tests.support.harness import Workers, make_broker, task_of
from tests.support.limits import LIMIT_SECONDS

# The writer by itself.


def test_synchronous_writes_in_the_calling_thread():
    """When the push returns, the row is written and its signal was sent."""
    bench = Bench()
    threads = []
    bench.store.on_write = lambda: threads.append(threading.current_thread())
    bench.synchronous.push(make_transition(message_id=make_id(1)))

    assert threads == [threading.current_thread()]
    assert len(bench.store.committed) == len(bench.announced) == 1
    stats = bench.synchronous.stats()
    assert (stats.transitions, stats.flushes, stats.rows_written, stats.pending) == (1, 1, 1, 0)
    assert bench.store.stale_checks == 0
    assert bench.registered == [bench.synchronous]


def test_synchronous_counts_what_the_database_rejects():
    """Bad data counts as rejected, not as a failed flush, since it is not tried again."""
    bench = Bench()
    bench.store.poison = {make_id(1)}
    bench.synchronous.push(make_transition(message_id=make_id(1)))

    stats = bench.synchronous.stats()
    assert (stats.rejected, stats.failed_flushes, stats.rows_written) == (1, 0, 0)


def test_synchronous_leaves_out_rejected_texts():
    """The writer's thread does the same."""
    bench = Bench()
    bench.store.rejects = has_emoji
    bench.synchronous.push(make_transition(Status.FAILED, error="😀"))

    (transition,) = bench.store.committed
    assert (transition.status, transition.details.error) == ("failed", None)
    assert bench.synchronous.stats().rejected == 0


def test_a_failed_synchronous_write_is_logged_and_counted(caplog):
    """Tracking never breaks the work that it tracks."""
    bench = Bench()
    bench.store.error = Outage("locked")
    bench.synchronous.push(make_transition(message_id=make_id(1)))

    assert bench.synchronous.stats().failed_flushes == 1
    assert make_id(1) in caplog.text
    assert bench.synchronous.flush(0)


def test_synchronous_warns_once_per_actor(caplog):
    """One warning covers all tasks of an actor that are written without a text."""
    bench = Bench()
    bench.store.rejects = has_emoji
    for number in range(3):
        bench.synchronous.push(make_transition(message_id=make_id(number), error="😀"))

    assert len(caplog.records) == 1


def test_a_forked_child_counts_what_it_writes_synchronously(sqlite, settings):
    """What its parent has written is not counted."""
    settings.TASKSTATE = {"SYNCHRONOUS": True}
    writer = StateMiddleware()._sink._synchronous_writer
    writer.push(make_transition())
    writer.after_fork_in_child()

    assert writer.stats() == taskstate.Stats()


# In a ``TestCase``, and with real workers beside it.

#: Renamed in dramatiq 1.14 and later.
WorkerThread = getattr(dramatiq_worker, "WorkerThread", None) or dramatiq_worker._WorkerThread


ConsumerThread = getattr(dramatiq_worker, "ConsumerThread", None) or dramatiq_worker._ConsumerThread


@pytest.fixture
def in_a_test_case(database, settings):
    """Run the test in a transaction that is rolled back at the end, as ``TestCase`` does."""
    settings.TASKSTATE = {"SYNCHRONOUS": True}
    with transaction.atomic(using=database):
        yield database
        transaction.set_rollback(True, using=database)
    assert Task.objects.count() == 0


def run_inline(broker, queue="default"):
    """Run the queue's messages in this thread, with all hooks."""
    consumer = ConsumerThread(
        broker=broker,
        queue_name=queue,
        prefetch=1,
        work_queue=dramatiq_worker.PriorityQueue(),
        worker_timeout=1,
    )
    consumer.consumer = broker.consume(queue, prefetch=1, timeout=1)
    thread = WorkerThread(
        broker=broker,
        consumers={queue: consumer},
        work_queue=dramatiq_worker.PriorityQueue(),
        worker_timeout=1,
    )
    thread.work_queue.task_done = lambda: None
    for message in consumer.consumer:
        if message is None:
            return
        thread.process_message(message)


def inline_broker():
    """Return a broker that leaves the test's own connection open."""
    broker = make_broker()
    broker.middleware = [m for m in broker.middleware if type(m).__name__ != "CloseConnections"]
    return broker


def test_the_row_is_there_when_send_returns(in_a_test_case, signals):
    """Its signal was sent too."""
    broker = inline_broker()
    act = dramatiq.actor(lambda for_state: None, broker=broker, actor_name="act")
    message = act.send(for_state={"description": "x"})

    assert task_of(message).status == "enqueued"
    assert [task.status for task, _ in signals] == ["enqueued"]
    assert taskstate.flush(LIMIT_SECONDS)


def test_a_message_that_runs_inline_is_done_at_once(in_a_test_case, signals):
    """Each status on the way is written and announced."""
    broker = inline_broker()
    seen = []

    def work(for_state):
        seen.append(Task.objects.get().status)

    act = dramatiq.actor(work, broker=broker, actor_name="act")
    message = act.send(for_state={})
    run_inline(broker)

    assert seen == ["running"]
    assert task_of(message).status == "done"
    assert [task.status for task, _ in signals] == ["enqueued", "running", "done"]


def test_a_failed_write_does_not_break_the_tests_transaction(in_a_test_case, caplog):
    """The error is logged, and the test continues."""
    broker = inline_broker()
    act = dramatiq.actor(lambda for_state: None, broker=broker, actor_name="act")
    with connections[in_a_test_case].execute_wrapper(reject_tasks):
        act.send(for_state={})

    assert "SYNCHRONOUS" in caplog.text
    assert Task.objects.count() == 0


def reject_tasks(execute, sql, params, many, context):
    """Let the database itself reject what is written to the table."""
    if "INSERT" in sql and "taskstate_task" in sql:
        sql = "SELECT * FROM no_such_table"
        params = None
    return execute(sql, params, many, context)


def test_synchronous_is_the_default_for_a_database_in_memory(memory, settings, signals):
    """No setting is needed.  The thread that wrote before the tests began is not used any more."""
    broker = make_broker()
    act = dramatiq.actor(lambda for_state: None, broker=broker, actor_name="act")
    settings.DRAMATIQ_TASKS_DATABASE = "default"
    act.send(for_state={})
    assert taskstate.flush(LIMIT_SECONDS)
    assert threads()

    settings.DRAMATIQ_TASKS_DATABASE = memory
    message = act.send(for_state={})

    assert task_of(message).status == "enqueued"
    assert [task.message_id for task, _ in signals][1:] == [task_of(message).message_id]


def threads():
    return [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]


def test_with_a_database_in_memory_a_worker_writes_in_its_own_threads(memory):
    """There is no writer's thread that it could wait for."""
    broker = make_broker()
    act = dramatiq.actor(lambda for_state: None, broker=broker, actor_name="act")
    with Workers(broker, threads=1) as workers:
        messages = [act.send(for_state={}) for _ in range(5)]
        workers.join()

    assert {task_of(message).status for message in messages} == {"done"}
    assert not threads()


def test_with_a_database_in_memory_an_event_loop_leaves_writing_to_the_thread(memory):
    """Django allows no database access there."""
    broker = inline_broker()
    act = dramatiq.actor(lambda for_state: None, broker=broker, actor_name="act")

    async def view():
        return act.send(for_state={})

    message = asyncio.run(view())

    assert taskstate.flush(LIMIT_SECONDS)
    assert task_of(message).status == "enqueued"


def test_a_test_without_database_access_can_send_messages(memory, monkeypatch, caplog):
    """No row is written, and no error is logged."""
    broker = inline_broker()
    act = dramatiq.actor(lambda for_state: None, broker=broker, actor_name="act")
    with monkeypatch.context() as patch:
        patch.setattr(BaseDatabaseWrapper, "ensure_connection", forbid)
        act.send(for_state={})
        assert taskstate.flush()

    assert caplog.records == []
    assert not Task.objects.exists()


def forbid(connection):
    raise RuntimeError('Database access not allowed, use the "django_db" mark')


def test_real_workers_beside_an_open_transaction_do_not_hang(database, settings):
    """A worker thread can't see the row that the test has just written.  It waits for the test,
    which waits for the worker, until a timeout.  Such tests need TransactionTestCase."""
    settings.TASKSTATE = {"SYNCHRONOUS": True}
    if database == "default":
        # A project may set this; SQLite's default is five seconds.
        settings.DATABASES["default"]["OPTIONS"]["timeout"] = 1
    broker = make_broker()
    ran = []
    act = dramatiq.actor(lambda for_state: ran.append(1), broker=broker, actor_name="act")
    try:
        with transaction.atomic(using=database):
            message = act.send(for_state={})
            with Workers(broker) as workers:
                workers.join()
            assert ran == [1]
            assert task_of(message).status == "enqueued"
            transaction.set_rollback(True, using=database)
    finally:
        if database == "default":
            settings.DATABASES["default"]["OPTIONS"]["timeout"] = 30
