"""Fixtures: a database of each kind, the signals, and writers that end with their test."""

import contextlib

import pytest
from django.db import connections
from django.test.utils import setup_databases, teardown_databases

from taskstate import process
from taskstate.middleware import StateMiddleware
from taskstate.models import Task, Watermark
from taskstate.signals import task_changed
from tests import servers
from tests.bench import Bench

#: How long a test waits for what must happen; only a failure ever takes as long.
LIMIT_SECONDS = 30


def pytest_configure(config):
    if servers.required() and servers.missing():
        names = ", ".join(servers.missing())
        raise pytest.UsageError(f"TASKSTATE_TEST_SERVERS=required, and no answer from: {names}")


def pytest_terminal_summary(terminalreporter):
    for server in servers.missing():
        terminalreporter.write_line(
            f"{server} does not answer at {servers.url(server)}: its tests were skipped. Start it, "
            f"or set TASKSTATE_{server.upper()}_URL.",
            yellow=True,
        )


def need(server):
    """Skip the test if a server is missing; the summary says which."""
    if not servers.answers(server):
        pytest.skip(f"{server} does not answer")


@pytest.fixture(scope="session")
def django_db_setup(django_db_blocker):
    """Make the tables in every database: pytest-django would in those that a mark names."""
    with django_db_blocker.unblock():
        made = setup_databases(verbosity=0, interactive=False)
        yield
        teardown_databases(made, verbosity=0)


@pytest.fixture(params=servers.DATABASES)
def database(request, settings, django_db_setup, django_db_blocker):
    """The alias of a database of each kind, its tables empty, for any thread to use."""
    with use_database(request.param, settings, django_db_blocker) as alias:
        yield alias


@pytest.fixture(params=servers.DATABASES[1:])
def server_database(request, settings, django_db_setup, django_db_blocker):
    """Like ``database``, of the kinds that lock rows: SQLite locks the whole file."""
    with use_database(request.param, settings, django_db_blocker) as alias:
        yield alias


@pytest.fixture
def sqlite(settings, django_db_setup, django_db_blocker):
    """Like ``database``, where one kind of database is enough."""
    with use_database("default", settings, django_db_blocker) as alias:
        yield alias


@contextlib.contextmanager
def use_database(alias, settings, blocker):
    need(alias)
    settings.DRAMATIQ_TASKS_DATABASE = alias
    with blocker.unblock():
        empty_tables(alias)
        yield alias
        stop_writers()
        connections.close_all()


def empty_tables(alias):
    for model in (Task, Watermark):
        model._base_manager.using(alias).all().delete()


def stop_writers():
    for writer in list(process._state.writers):
        assert writer.stop(LIMIT_SECONDS)
    process._state.writers.clear()


@pytest.fixture
def signals():
    """Every ``task_changed`` on its way: (task, transitions)."""
    seen = []

    def note(sender, task, transitions, **kwargs):
        seen.append((task, transitions))

    task_changed.connect(note, sender=StateMiddleware)
    yield seen
    task_changed.disconnect(note, sender=StateMiddleware)


@pytest.fixture
def bench():
    return Bench(flush_interval=1.0, max_batch_size=10, max_pending=100)


@pytest.fixture
def threaded(bench):
    """A writer whose thread starts and ends with the test."""
    bench.threads = True
    yield bench
    bench.store.error = None
    bench.store.on_write = lambda: None
    assert bench.writer.stop(LIMIT_SECONDS)
    assert bench.writer._thread is None
