"""``taskstate.testing``: what a project's own tests call."""

import asyncio
import contextvars
import os
import subprocess
import sys
import threading
import unittest
import uuid

import dramatiq
import pytest
from django.contrib.auth.models import Group
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connections, transaction
from django.test import TestCase
from django.utils import timezone
from django_dramatiq.middleware import DbConnectionsMiddleware
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import SkipMessage

import taskstate
from taskstate.models import Status, Task
from taskstate.testing import inline, run_messages, run_task, wait_for_status
from tests.support import servers
from tests.support.harness import Workers, make_broker
from tests.support.limits import LIMIT_SECONDS
from tests.support.needs import need
from tests.support.processes import ROOT

HOUR_MS = 3_600_000

marker = contextvars.ContextVar("marker", default="of the test")


class Shop:
    """A project's broker and actors."""

    def __init__(self, *middleware):
        self.broker = make_broker(DbConnectionsMiddleware(), *middleware)
        self.ran = []

    def actor(self, function, **options):
        return dramatiq.actor(function, broker=self.broker, **options)

    def recorder(self, name, **options):
        """Return an actor that notes its name and argument."""
        return self.actor(lambda value: self.ran.append((name, value)), actor_name=name, **options)

    def failing(self, times=None, **options):
        """Return an actor that raises on its first runs, or on all of them."""

        def fail():
            self.ran.append("fail")
            if times is None or len(self.ran) <= times:
                raise ValueError(f"no paper, attempt {len(self.ran)}")

        options.setdefault("min_backoff", HOUR_MS)
        options.setdefault("max_backoff", HOUR_MS)
        return self.actor(fail, **options)


@pytest.fixture
def shop():
    return Shop()


@pytest.fixture
def in_a_test_case(database):
    """Run a function as the one test of a ``TestCase``, and see that it leaves nothing."""

    def run(function):
        case = type("Case", (TestCase,), {"databases": "__all__", "test": lambda self: function()})
        result = unittest.TestResult()
        unittest.TestSuite([case("test")]).run(result)
        assert result.wasSuccessful(), result.errors + result.failures
        assert result.testsRun == 1
        assert Task.objects.count() == 0
        assert not Group.objects.using(database).exists()

    return run


def test_a_test_case_runs_a_task(in_a_test_case, database, shop):
    """In its own transaction: the actor sees what the test has written, the test what the actor
    has, and the rollback takes it all."""

    def promote(name, for_state):
        shop.ran.append(threading.current_thread())
        Group.objects.using(database).filter(name=name).update(name=name.upper())
        taskstate.set_progress(40, text="promoting")

    def test():
        Group.objects.using(database).create(name="staff")
        task = run_task(shop.actor(promote), "staff", for_state={"description": "Promotion"})

        assert (task.status, task.description, task.attempt) == ("done", "Promotion", 1)
        assert task.progress == 40
        assert Group.objects.using(database).get().name == "STAFF"
        assert Task.objects.get().pk == task.pk

    in_a_test_case(test)
    assert shop.ran == [threading.current_thread()]


def test_retries_do_not_wait(in_a_test_case, shop):
    """A backoff of an hour takes no time, and the task shows its last attempt."""

    def test():
        task = run_task(shop.failing(times=2))
        assert (task.status, task.attempt, task.error) == ("done", 3, None)

    in_a_test_case(test)


def test_a_failure_is_a_task_as_well(in_a_test_case, shop):
    """Once no retry is left; or it is raised, if the test wants that."""

    def test():
        fail = shop.failing(max_retries=1)
        task = run_task(fail)
        assert task.status == "failed"
        assert task.error == "ValueError: no paper, attempt 2"

        with pytest.raises(ValueError, match="attempt 4"):
            run_task(fail, raise_on_failure=True)

    in_a_test_case(test)


def test_messages_that_were_sent_run_in_order(in_a_test_case, settings, shop):
    """Of their queue; those included that are sent meanwhile, and untracked ones."""
    settings.TASKSTATE = {"SYNCHRONOUS": True}

    def send_on(value):
        shop.ran.append(("first", value))
        last.send_with_options(args=(value + 1,), for_state={})

    first = shop.actor(send_on)
    last = shop.recorder("last", queue_name="other")

    def test():
        sent = first.send_with_options(args=(1,), for_state={})
        first.send_with_options(args=(10,))
        assert Task.objects.get(pk=sent.message_id).status == "enqueued"

        tasks = run_messages(shop.broker)

        assert shop.ran == [("first", 1), ("first", 10), ("last", 2), ("last", 11)]
        assert [(task.actor_name, task.status) for task in tasks] == [
            ("send_on", "done"),
            ("last", "done"),
            ("last", "done"),
        ]
        assert run_messages(shop.broker) == []

    in_a_test_case(test)


def test_what_is_delayed_can_be_left_alone(in_a_test_case, settings, shop):
    """So a test sees the task between two attempts; then what is due first runs first."""
    settings.TASKSTATE = {"SYNCHRONOUS": True}

    def test():
        shop.failing(times=1).send_with_options(for_state={})
        late = shop.recorder("late")
        late.send_with_options(args=(2,), delay=3 * HOUR_MS)
        late.send_with_options(args=(1,), delay=2 * HOUR_MS)

        (task,) = run_messages(shop.broker, delayed=False)
        assert (task.status, task.error) == ("delayed", "ValueError: no paper, attempt 1")

        run_messages(shop.broker)
        assert shop.ran == ["fail", "fail", ("late", 1), ("late", 2)]

    in_a_test_case(test)


def test_a_message_whose_id_is_no_uuid_runs_without_a_task(sqlite, shop):
    """It is not tracked, as in a worker."""
    record = shop.recorder("record")
    message = record.message_with_options(args=(1,), for_state={})
    shop.broker.enqueue(message.copy(message_id="nightly"))

    assert run_messages(shop.broker) == []
    assert shop.ran == [("record", 1)]


def test_a_task_leaves_other_messages_alone(sqlite, shop):
    """They keep their order, and wait for ``run_messages``."""
    record = shop.recorder("record")
    for number in range(3):
        record.send(number)
    run_task(record, 9)

    assert shop.ran == [("record", 9)]
    run_messages(shop.broker)
    assert shop.ran[1:] == [("record", 0), ("record", 1), ("record", 2)]
    shop.broker.join("default", timeout=1000)


def test_for_state_goes_where_the_actor_wants_it(sqlite, shop):
    """As an argument if it takes one, which may be required, and as an option if it doesn't; what
    the actor is declared with holds."""
    takes = shop.actor(lambda for_state: shop.ran.append(dict(for_state)), actor_name="takes")
    declared = shop.recorder("declared", for_state={"description": "Nightly"})

    assert run_task(takes).description == ""
    assert run_task(takes, for_state={"description": "x"}).description == "x"
    assert shop.ran == [{}, {"description": "x"}]
    assert run_task(declared, 1).description == "Nightly"
    assert run_task(declared, value=1, for_state={"description": "y"}).description == "y"


def test_a_class_based_actor(sqlite, shop):
    """Is given as its class, as in ``Export.send()``, or as the actor that Dramatiq makes of it;
    for_state goes where its method wants it."""

    class Base(dramatiq.GenericActor):
        class Meta:
            abstract = True
            broker = shop.broker
            max_retries = 0

    class Export(Base):
        class Meta:
            queue_name = "exports"

        def perform(self, number, for_state):
            shop.ran.append((number, for_state["description"]))

    class Declared(Base):
        class Meta:
            for_state = {"description": "Nightly"}

        def perform(self, number, *, factor=1):
            if number < 0:
                raise ValueError("no paper")
            taskstate.set_result(number * factor)

    for number, actor in enumerate([Export, Export.__actor__]):
        task = run_task(actor, number, for_state={"description": "x"})
        assert (task.status, task.actor_name, task.queue_name) == ("done", "Export", "exports")
    assert shop.ran == [(0, "x"), (1, "x")]

    task = run_task(Declared, 7, factor=6)
    assert (task.description, task.result) == ("Nightly", 42)
    with pytest.raises(ValueError, match="no paper"):
        run_task(Declared, -1, raise_on_failure=True)
    with pytest.raises(TypeError, match=r"Base.* is not an actor.*that is not abstract"):
        run_task(Base, 1)


def test_a_skipped_task(sqlite, shop):
    """Is skipped, and no failure."""

    def skip():
        raise SkipMessage

    assert run_task(shop.actor(skip), raise_on_failure=True).status == "skipped"


def test_a_failure_without_an_exception_can_be_raised_too(sqlite):
    """Where a middleware has failed the message."""

    class Reject(dramatiq.Middleware):
        def before_process_message(self, broker, message):
            message.fail()

    shop = Shop(Reject())
    with pytest.raises(RuntimeError, match="of actor record failed"):
        run_task(shop.recorder("record"), 1, raise_on_failure=True)
    assert shop.ran == []


def test_an_interrupt_reaches_the_test(sqlite, shop):
    """Ctrl-C ends the run of the tests, and leaves no message that a queue would wait for."""

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_task(shop.actor(interrupt, max_retries=0))
    shop.broker.join("default", timeout=1000, fail_fast=False)
    assert Task.objects.get().status == "failed"


def test_what_an_actor_sets_ends_with_it(sqlite, shop):
    """Context variables, ours and others', are as in a thread of their own."""

    def act():
        marker.set("of the actor")
        shop.ran.append(taskstate.current_task_id())

    task = run_task(shop.actor(act))

    assert shop.ran == [str(task.pk)]
    assert marker.get() == "of the test"
    assert taskstate.current_task_id() is None


@pytest.mark.skipif(not hasattr(dramatiq.middleware, "AsyncIO"), reason="dramatiq is too old")
def test_an_asynchronous_actor(in_a_test_case):
    """Runs in an event loop that is there for it, and reports its progress."""
    shop = Shop(dramatiq.middleware.AsyncIO())

    async def act(for_state):
        taskstate.set_progress(70, text=for_state["description"])
        await asyncio.sleep(0)

    def test():
        task = run_task(shop.actor(act, actor_name="act"), for_state={"description": "x"})
        assert (task.status, task.progress, task.progress_text) == ("done", 70, "x")

    in_a_test_case(test)


def test_a_message_of_an_unknown_actor_is_rejected(sqlite, shop):
    """As a worker does; the task has that status."""
    record = shop.recorder("record")
    record.send_with_options(args=(1,), for_state={})
    del shop.broker.actors["record"]

    (task,) = run_messages(shop.broker)
    assert task.status == "failed"


def test_a_loop_is_found(sqlite, shop, monkeypatch):
    """An actor that sends itself on for ever doesn't hang the tests."""
    monkeypatch.setattr(inline, "MAX_RUNS", 20)

    def again():
        shop.ran.append(1)
        shop.broker.get_actor("again").send()

    shop.actor(again).send()
    with pytest.raises(RuntimeError, match=r"20 messages.*a loop.*sends itself again"):
        run_messages(shop.broker)
    assert len(shop.ran) == 20


def test_a_worker_that_took_the_message_is_named(sqlite, shop):
    """Rather than to wait for what it makes of it."""

    class Thief(dramatiq.Middleware):
        def after_enqueue(self, broker, message, delay):
            broker.flush("default")

    shop.broker.add_middleware(Thief())
    with pytest.raises(RuntimeError, match=r"of actor record is not on its queue.*wait_for_status"):
        run_task(shop.recorder("record"), 1)


def test_wrong_arguments_raise_an_error(shop):
    """The error states the value and what to do, before anything is sent."""
    record = shop.recorder("record")
    for wrong in (lambda: None, dramatiq.GenericActor, object(), "record", None):
        with pytest.raises(TypeError, match=r"is not an actor\. Decorate .*GenericActor"):
            run_task(wrong)
    with pytest.raises(TypeError, match="for_state is 'x', which is not a dictionary"):
        run_task(record, 1, for_state="x")
    with pytest.raises(ImproperlyConfigured, match=r"is a RedisBroker.*StubBroker"):
        run_messages(RedisBroker())
    with pytest.raises(ImproperlyConfigured, match="no StateMiddleware"):
        run_messages(StubBroker(middleware=[]))
    assert not shop.broker.queues["default"].qsize()


def test_a_message_without_a_row_raises_an_error(sqlite, shop):
    """A message whose id is no UUID is not tracked."""

    class Rename(dramatiq.Middleware):
        def before_enqueue(self, broker, message, delay):
            message.kwargs["for_state"] = "not a dict"
            message.options.pop("for_state", None)

    shop.broker.add_middleware(Rename())
    with pytest.raises(RuntimeError, match=r"of actor act has run, but has no task"):
        run_task(shop.actor(lambda for_state: None, actor_name="act"))


def test_waiting_for_real_workers(database, shop):
    """By the message, the task or their id; any of several statuses will do."""
    go = threading.Event()

    def act():
        assert go.wait(LIMIT_SECONDS)

    act = shop.actor(act)
    with Workers(shop.broker):
        message = act.send_with_options(for_state={})
        task = wait_for_status(message, "running", timeout=LIMIT_SECONDS)
        assert task.status == "running"
        go.set()
        done = wait_for_status(task, "failed", "done", timeout=LIMIT_SECONDS)
        assert done.status == "done"
        for key in (message.message_id, uuid.UUID(message.message_id)):
            assert wait_for_status(key, Status.DONE).pk == task.pk


def test_waiting_without_success_raises_an_error(database, shop):
    """The error states what was there at last: nothing, no worker, or the error of a failure."""
    with pytest.raises(AssertionError, match=r"was not done within 0 seconds\. There is no row"):
        wait_for_status(uuid.uuid4(), "done", timeout=0)

    fail = shop.failing(max_retries=0)
    message = fail.send_with_options(for_state={})
    with pytest.raises(AssertionError, match=r"It is enqueued, in attempt 1\. Is there a worker"):
        wait_for_status(message, "done", "skipped", timeout=1)

    run_messages(shop.broker)
    with pytest.raises(AssertionError, match=r"not done .* failed.*ValueError: no paper"):
        wait_for_status(message, "done", timeout=0)


def test_waiting_in_a_transaction_raises_an_error(database, shop):
    """At once, unless the expected status is there already."""
    with transaction.atomic(using=database):
        task = run_task(shop.recorder("record"), 1)
        assert wait_for_status(task, "done").pk == task.pk
        with pytest.raises(RuntimeError, match=r"in a transaction.*TransactionTestCase.*run_task"):
            wait_for_status(task, "failed")
        transaction.set_rollback(True, using=database)


def test_waiting_for_an_invalid_status_or_id_raises_an_error(shop):
    """The error names the value."""
    with pytest.raises(ValueError, match=r"'finished' is not a status.*enqueued, delayed, running"):
        wait_for_status(uuid.uuid4(), "finished")
    with pytest.raises(ValueError, match="'export' is not a message, a task, or the id"):
        wait_for_status("export", "done")
    with pytest.raises(ValueError, match="7 is not a message"):
        wait_for_status(7, "done")


@pytest.fixture
def in_memory(settings, django_db_setup, django_db_blocker):
    """The alias of an SQLite database in memory, which threads share as Django's tests do: one
    that writes locks out the others, whatever their timeout."""
    alias = "memory"
    name = "file:taskstate?mode=memory&cache=shared"
    connections.databases[alias] = {**connections["default"].settings_dict, "NAME": name}
    settings.DRAMATIQ_TASKS_DATABASE = alias
    with django_db_blocker.unblock():
        with connections[alias].schema_editor() as editor:
            editor.create_model(Task)
        yield alias
        end_connection(alias)
    del connections[alias], connections.databases[alias]


def end_connection(alias):
    """Django doesn't close that of a database in memory, which would end with it."""
    connections[alias].connection.close()


class Writer:
    """A thread that writes to all tasks, and commits on demand.

    In the block the reads of the calling thread fail; ``reads`` counts them, and ``on_read`` is
    called with each one's number after it has failed.
    """

    def __init__(self, alias, on_read=lambda number: None):
        self.alias = alias
        self.on_read = on_read
        self.reads = 0
        self.locked = threading.Event()
        self.release = threading.Event()
        self.thread = threading.Thread(target=self.write)
        self.wrapper = connections[alias].execute_wrapper(self.note)

    def write(self):
        with transaction.atomic(using=self.alias):
            Task.objects.using(self.alias).update(status="done")
            self.locked.set()
            assert self.release.wait(LIMIT_SECONDS)
        end_connection(self.alias)

    def note(self, execute, sql, params, many, context):
        try:
            return execute(sql, params, many, context)
        except OperationalError:
            self.reads += 1
            self.on_read(self.reads)
            raise

    def commit(self):
        self.release.set()
        self.thread.join(LIMIT_SECONDS)

    def __enter__(self):
        self.thread.start()
        assert self.locked.wait(LIMIT_SECONDS)
        self.wrapper.__enter__()
        return self

    def __exit__(self, *error):
        self.wrapper.__exit__(*error)
        self.commit()


def commit_at(writer, number):
    """Let a writer commit after so many reads have failed."""
    writer.on_read = lambda reads: reads == number and writer.commit()


def test_waiting_while_a_table_is_locked(in_memory, shop):
    """SQLite in memory doesn't wait for a writer by itself; the test does."""
    now = timezone.now()
    task = Task.objects.create(
        message_id=uuid.uuid4(), status="running", enqueued_at=now, updated_at=now, stamp=1, rank=1
    )
    with Writer(in_memory) as writer:
        commit_at(writer, 2)
        assert wait_for_status(task, "done", timeout=LIMIT_SECONDS).status == "done"
        assert writer.reads == 2


def test_waiting_for_a_lock_has_an_end(in_memory, shop):
    """The error states that it was a lock, since nothing else is known then."""
    with Writer(in_memory), pytest.raises(
        AssertionError, match=r"not done within 0\.1 seconds.*could not be read: .*is locked"
    ):
        wait_for_status(uuid.uuid4(), "done", timeout=0.1)


def test_messages_run_while_a_table_is_locked(in_memory, shop):
    """A worker may run beside.  The tasks are read when it has committed."""
    shop.recorder("record").send(1)
    with Writer(in_memory) as writer:
        commit_at(writer, 2)
        assert run_messages(shop.broker) == []
        assert writer.reads == 2
    assert shop.ran == [("record", 1)]


def test_other_errors_of_the_database_are_raised_at_once(in_memory, shop):
    """Waiting doesn't make a table."""
    with connections[in_memory].schema_editor() as editor:
        editor.delete_model(Task)
    with pytest.raises(OperationalError, match="no such table"):
        wait_for_status(uuid.uuid4(), "done", timeout=LIMIT_SECONDS)
    shop.recorder("record").send(1)
    with pytest.raises(OperationalError, match="no such table"):
        run_messages(shop.broker)


PROJECT = {
    "conftest.py": 'pytest_plugins = ["taskstate.testing.fixtures"]\n',
    "shop/__init__.py": "",
    "shop/tasks.py": """
import dramatiq
from django.contrib.auth.models import Group

@dramatiq.actor(max_retries=0)
def count(wanted, for_state=None):
    found = Group.objects.count()
    if found != wanted:
        raise ValueError(f"{found} groups")
""",
    "test_shop.py": """
import dramatiq
import pytest
from django.contrib.auth.models import Group
from shop.tasks import count
from taskstate.models import Task
from taskstate.testing import run_task, wait_for_status

@pytest.mark.parametrize("number", [1, 2])
def test_it_is_done(taskstate_worker, number):
    Group.objects.create(name="staff")
    message = count.send(1, for_state={})
    assert wait_for_status(message, "done", timeout=30).status == "done"
    left = count.send_with_options(args=(1,), kwargs={"for_state": {}}, delay=3_600_000)
    wait_for_status(left, "delayed", timeout=30)

def test_it_fails(taskstate_worker):
    task = wait_for_status(count.send(5, for_state={}), "failed", timeout=30)
    assert task.error == "ValueError: 0 groups"
    assert isinstance(taskstate_worker, dramatiq.Worker)

@pytest.mark.django_db
def test_inline():
    Group.objects.create(name="staff")
    assert run_task(count, 1).status == "done"

@pytest.mark.django_db
def test_nothing_is_left():
    assert Task.objects.count() == 0
    assert not any(queue.unfinished_tasks for queue in dramatiq.get_broker().queues.values())
""",
    "site_settings.py": """
import os
from benchmarks import services
SECRET_KEY = "tests"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.auth", "django.contrib.contenttypes", "django_dramatiq", "taskstate", "shop"
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.sqlite3"}}
if "SHOP_DATABASE" in os.environ:
    DATABASES = {"default": services.database(os.environ["SHOP_DATABASE"])}
    DATABASES["default"]["TEST"] = {"NAME": os.environ["SHOP_TEST_NAME"]}
DRAMATIQ_BROKER = {
    "BROKER": "dramatiq.brokers.stub.StubBroker",
    "OPTIONS": {},
    "MIDDLEWARE": [
        "dramatiq.middleware.AgeLimit",
        "dramatiq.middleware.TimeLimit",
        "dramatiq.middleware.Callbacks",
        "dramatiq.middleware.Retries",
        "django_dramatiq.middleware.DbConnectionsMiddleware",
        "taskstate.middleware.StateMiddleware",
    ],
}
TASKSTATE = {"SYNCHRONOUS": True}
""",
}


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_the_fixture_in_a_project(kind, tmp_path):
    """A worker for each test that asks for one, in Django's usual test database; nothing stays
    for the next test, and the database can be dropped in the end."""
    for name, text in PROJECT.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    env = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
        "DJANGO_SETTINGS_MODULE": "site_settings",
    }
    if kind == "postgres":
        need(kind)
        env["SHOP_DATABASE"] = servers.url(kind)
        env["SHOP_TEST_NAME"] = f"{servers.TEST_DATABASE}_shop"
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull]
    done = subprocess.run(
        [*command, "--rootdir", ".", "--create-db", "."],
        check=False,
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS * 4,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout


def test_nothing_of_it_is_loaded_unasked():
    """A site runs without pytest, and so do tests that don't use the fixture."""
    code = (
        "import sys, django; django.setup(); "
        "loaded = [name for name in sys.modules if name.startswith('taskstate.testing')]; "
        "assert not loaded, loaded; "
        "import taskstate.testing; assert 'pytest' not in sys.modules"
    )
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, check=True, timeout=60)


def test_connections_can_close_again(database, shop):
    """They were only kept open while messages ran in the test's transaction."""
    with transaction.atomic(using=database):
        run_task(shop.recorder("record"), 1)
        transaction.set_rollback(True, using=database)
    connections[database].close()
    assert connections[database].connection is None
