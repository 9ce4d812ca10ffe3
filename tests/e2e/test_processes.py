"""Several processes: at once, forked, ending at once, under gevent, with rundramatiq."""

import contextlib
import importlib.util
import subprocess
import sys
import threading
import uuid

import pytest
from django.contrib.auth import get_user_model
from django.db import transaction

import taskstate
from taskstate.middleware import StateMiddleware
from taskstate.models import Task
from taskstate.transitions.rank import join_rank
from tests.support import servers
from tests.support.databases import use_database
from tests.support.factories import make_id, make_transition
from tests.support.limits import LIMIT_SECONDS
from tests.support.processes import (
    ROOT,
    SecondProcess,
    end_script,
    environment,
    run_script,
    start_script,
)
from tests.support.workers import SETUP, Rundramatiq, counts, queue_of_its_own, send, wait_until


def statuses():
    return sorted((task.description, task.status) for task in Task.objects.all())


@pytest.fixture(scope="module")
def processes(django_db_setup):
    """Two processes for each database server, which the tests share."""
    aliases = [alias for alias in servers.DATABASES[1:] if servers.answers(alias)]
    with contextlib.ExitStack() as stack:
        yield {
            alias: [stack.enter_context(SecondProcess(alias)) for _ in range(2)]
            for alias in aliases
        }


@pytest.mark.parametrize("stores", [("orm", "orm"), ("upsert", "upsert"), ("orm", "upsert")])
def test_two_processes_write_the_same_messages(server_database, stores, processes):
    """At the same time, in different orders: no deadlock escapes, no row goes back."""
    size = 60
    ranks = {}

    def merge(process, seed):
        assert process.order("merge", rounds=40, size=size, seed=seed) == "merged"

    pair = processes[server_database]
    for process, store in zip(pair, stores):
        process.begin(store=store)
    mergers = [
        threading.Thread(target=merge, args=[process, seed])
        for seed, process in enumerate(pair, start=1)
    ]
    for merger in mergers:
        merger.start()
    while any(merger.is_alive() for merger in mergers):
        for task in Task.objects.all():
            rank = join_rank(task.stamp, task.rank)
            assert rank >= ranks.get(task.pk, 0), "a row went back"
            ranks[task.pk] = rank
        for merger in mergers:
            merger.join(0.01)
    # Each had to answer that it got to its end.
    for process in pair:
        assert process.order("pending") == 0

    assert Task.objects.count() == size
    # The later of both last transitions: the second process's are a millisecond later.
    assert set(Task.objects.values_list("status", "attempt")) == {("done", 2)}


def test_a_script_that_ends_right_after_sending(database):
    """The last flush happens at exit."""
    run_script(
        SETUP + "tasks.succeed.send(for_state={'description': 'script'})", environment(database)
    )

    assert statuses() == [("script", "enqueued")]


def test_a_script_that_ends_with_an_exception(sqlite):
    """What was tracked before it is written all the same."""
    code = SETUP + "tasks.succeed.send(for_state={'description': 'script'})\nraise KeyError('x')"
    with pytest.raises(AssertionError, match="KeyError: 'x'"):
        run_script(code, environment(sqlite))

    assert statuses() == [("script", "enqueued")]


def test_an_exit_in_an_outage_takes_the_shutdown_timeout(sqlite):
    """It takes no longer, and logs what is lost."""
    code = SETUP + "tasks.succeed.send(for_state={})"
    process = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(
            sqlite,
            DATABASE="sqlite:////nowhere/x.sqlite3",
            DEMO_TASKSTATE='{"SHUTDOWN_TIMEOUT": 0.3}',
        ),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )

    assert process.returncode == 0
    assert "1 tasks could not be written within" in process.stderr
    assert "unable to open database file" in process.stderr


WITHOUT_THE_APP = """
import logging, sys, threading, time
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django_dramatiq"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "/nowhere/x.sqlite3"}},
    DRAMATIQ_BROKER={
        "BROKER": "dramatiq.brokers.stub.StubBroker",
        "MIDDLEWARE": ["taskstate.middleware.StateMiddleware"],
    },
)
import django
django.setup()
import dramatiq, taskstate

ran = []

@dramatiq.actor
def act(number, for_state=None):
    taskstate.set_progress(number)
    ran.append(number)

worker = dramatiq.Worker(dramatiq.get_broker(), worker_timeout=10)
worker.start()
for number, state in enumerate([{"user_pk": 1}, {"user_pk": "1"}, {"description": "x" * 2000}]):
    act.send(number, for_state=state)
dramatiq.get_broker().join("default")
worker.stop()
assert sorted(ran) == [0, 1, 2]
assert taskstate.flush()
assert not [t for t in threading.enumerate() if t.name == "taskstate-writer"]
assert taskstate.writer.lifecycle._state.exit_hook_pid is None, "it would wait at exit"
from django.core import checks
print([message.id for message in checks.run_checks()])
"""


def test_a_project_that_has_forgotten_the_app(sqlite):
    """Its messages run as usual; the check and one record state what is missing."""
    script = start_script(WITHOUT_THE_APP, environment(sqlite))
    output, errors = end_script(script)

    assert script.returncode == 0, errors
    assert output.strip() == "['taskstate.E001']"
    (line,) = [line for line in errors.splitlines() if "taskstate" in line]
    assert line.startswith("ERROR 'taskstate' is missing from INSTALLED_APPS")


def test_a_script_of_a_project_that_has_forgotten_to_migrate(sqlite, tmp_path):
    """It doesn't wait at its exit, and logs what to do."""
    script = start_script(
        SETUP + "tasks.succeed.send(for_state={})",
        environment(
            sqlite,
            DATABASE=f"sqlite:///{tmp_path}/new.sqlite3",
            DEMO_TASKSTATE='{"SHUTDOWN_TIMEOUT": 3600}',
        ),
    )
    _, errors = end_script(script)

    assert script.returncode == 0, errors
    assert "1 tasks could not be written. They are lost" in errors
    assert errors.count("run manage.py migrate taskstate") == 2
    assert "SHUTDOWN_TIMEOUT" not in errors


FORK = (
    SETUP
    + """
tasks.succeed.send(for_state={'description': 'before'})
assert taskstate.flush(30)
tasks.succeed.send(for_state={'description': 'parent'})
pid = os.fork()
if pid == 0:
    assert taskstate.stats().transitions == 0
    assert taskstate.flush(0)
    tasks.succeed.send(for_state={'description': 'child'})
    assert taskstate.flush(30)
    assert taskstate.stats().rows_written == 1
    {end}
_, status = os.waitpid(pid, 0)
assert status == 0, status
tasks.succeed.send(for_state={'description': 'after'})
assert taskstate.flush(30)
assert taskstate.stats().failed_flushes == 0, taskstate.stats()
assert taskstate.stats().rows_written == 3
"""
)


@pytest.mark.parametrize(
    "end", ["os._exit(0)", "sys.exit(0)", "import gc; gc.collect(); sys.exit(0)"]
)
def test_fork(end, database):
    """A child starts its own thread, drops what it inherited, and doesn't end the parent's
    connection when it ends."""
    run_script(FORK.replace("{end}", end), environment(database))

    assert statuses() == [
        ("after", "enqueued"),
        ("before", "enqueued"),
        ("child", "enqueued"),
        ("parent", "enqueued"),
    ]


def test_nothing_is_left_for_the_thread_to_import(sqlite):
    """A fork in the middle of an import leaves the child with half a module."""
    run_script(
        SETUP
        + "assert 'taskstate.stores.orm' in sys.modules\n"
        + "assert 'django.db.backends.sqlite3.base' in sys.modules\n",
        environment(sqlite),
    )


MULTIPROCESSING = (
    SETUP
    + """
import multiprocessing

def work(number):
    tasks.succeed.send(for_state={'description': f'child {number}'})

tasks.succeed.send(for_state={'description': 'parent'})
context = multiprocessing.get_context('fork')
children = [context.Process(target=work, args=[number]) for number in range(3)]
for child in children:
    child.start()
for child in children:
    child.join(60)
    assert child.exitcode == 0
"""
)


def test_multiprocessing(database):
    """A child flushes at its exit, where atexit's handlers don't run before Python 3.13."""
    run_script(MULTIPROCESSING, environment(database))

    assert statuses() == [(f"child {n}", "enqueued") for n in range(3)] + [("parent", "enqueued")]


def test_a_user_of_a_transaction_that_is_open_or_rolled_back(database):
    """Tracking neither waits for it for ever nor fails by it.  Users are where a router puts them,
    and tasks may be in another database."""
    state = StateMiddleware()
    User = get_user_model()
    pks, names = [], []
    for number, rolled_back in enumerate([False, True], start=1):
        with transaction.atomic():
            user = User.objects.create(username=f"{uuid.uuid4()}")
            names.append(user.username)
            pks.append(user.pk)
            state._writer.push(make_transition(message_id=make_id(number), user_pk=user.pk))
            if database != "default":  # SQLite has one writer at a time.
                assert taskstate.flush(LIMIT_SECONDS)
                assert Task.objects.get(pk=make_id(number)).user_id == user.pk
            transaction.set_rollback(rolled_back)
        assert taskstate.flush(LIMIT_SECONDS)

    assert [task.user_id for task in Task.objects.order_by("pk")] == pks
    assert Task.objects.get(pk=make_id(1)).user.username == names[0]
    with pytest.raises(User.DoesNotExist):
        Task.objects.get(pk=make_id(2)).user  # noqa: B018


#: Each broker and each database on each release, and all pairs of them on one.
PAIRS = [
    ("redis", "postgres"),
    ("rabbitmq", "mariadb"),
    pytest.param("redis", "mariadb", marks=pytest.mark.once),
    pytest.param("rabbitmq", "postgres", marks=pytest.mark.once),
]
with_brokers_and_databases = pytest.mark.parametrize(
    ("queue_env", "worker_database"), PAIRS, indirect=True
)


@pytest.fixture
def queue_env(request):
    """The environment for a real broker, with a queue of this test's own."""
    with queue_of_its_own(request.param) as env:
        yield env


@pytest.fixture
def worker_database(request, settings, django_db_setup, django_db_blocker):
    with use_database(request.param, settings, django_db_blocker) as alias:
        yield alias


@with_brokers_and_databases
def test_sigterm_in_mid_work(queue_env, worker_database):
    """2 processes of 4 threads, 2,000 messages, stopped and started again: every row is final
    and right."""
    env = environment(worker_database, **queue_env)
    numbers = {"succeed": 1700, "fail_once": 200, "fail_for_good": 100}
    send(env, **numbers)
    assert counts() == {"enqueued": 2000}

    options = ["--processes", "2", "--threads", "4"]
    with Rundramatiq(env, *options):
        wait_until(lambda: Task.objects.finished().count() > 300)
    stopped_at = counts()
    assert sum(stopped_at.values()) == 2000
    assert stopped_at["done"] < 1900, "it was too late to stop it in mid-work"
    with Rundramatiq(env, *options):
        wait_until(lambda: Task.objects.finished().count() == 2000)

    for task in Task.objects.all():
        kind = task.description.split()[0]
        expected = {"succeed": "done", "fail_once": "done", "fail_for_good": "failed"}[kind]
        # Interrupted by the shutdown, a run is retried: one attempt more than planned.
        fewest = 2 if kind == "fail_once" else 1
        assert task.status == expected, task
        assert task.attempt >= fewest
        assert task.queue_name == queue_env["DEMO_QUEUE"]
        assert task.enqueued_at <= task.started_at <= task.finished_at == task.updated_at


@with_brokers_and_databases
def test_gevent_workers(queue_env, worker_database):
    """``rundramatiq --use-gevent``: the same rows."""
    assert importlib.util.find_spec("gevent"), "gevent belongs to what the tests need"
    env = environment(worker_database, **queue_env)
    send(env, succeed=200, fail_once=20, fail_for_good=10)
    with Rundramatiq(env, "--use-gevent", "--processes", "1", "--threads", "20"):
        wait_until(lambda: Task.objects.finished().count() == 230)

    assert counts() == {"done": 220, "failed": 10}
