"""Fixtures: a database of each kind, the signals, and writers that end with their test."""

import hypothesis
import pytest
from django.core.management import call_command
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.dispatch import receiver
from django.test.utils import setup_databases, teardown_databases
from django.utils import translation

from taskstate.middleware import StateMiddleware
from taskstate.signals import task_changed
from taskstate.stores.selection import find_obstacle
from taskstate.tracking.run import set_current_run
from taskstate.writer import lifecycle
from tests.support import servers
from tests.support.bench import Bench
from tests.support.databases import stop_writers, use_database
from tests.support.limits import LIMIT_SECONDS
from tests.support.users import use_users

# An example takes as long as the machine is busy; by default 200 ms are a failure.
hypothesis.settings.register_profile("taskstate", deadline=None)
hypothesis.settings.load_profile("taskstate")


@receiver(connection_created)
def do_not_wait_for_a_disk(connection, **kwargs):
    """Have SQLite leave writing to the system, as ``servers.databases`` has PostgreSQL do."""
    if connection.vendor == "sqlite":
        connection.connection.execute("PRAGMA synchronous = OFF")


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


@pytest.fixture(autouse=True)
def forget_language():
    """Let the next test begin with the site's language: a request activates that of its reader, and
    it stays activated in the thread."""
    yield
    translation.deactivate()


@pytest.fixture(autouse=True)
def forget_run():
    """Let the next test begin outside of a run: many tests call hooks in their own thread, and not
    all of them end the run."""
    yield
    set_current_run(None)


@pytest.fixture(autouse=True)
def forget_writers():
    """Let ``taskstate.flush()`` and the metrics know of no writer of an earlier test: those without
    a database leave what they have pushed, until the garbage collector takes their writers."""
    lifecycle._state.writers.clear()


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


@pytest.fixture
def one_database(request):
    """The database of the test; an SQLite if it names none."""
    return request.getfixturevalue("database" if "database" in request.fixturenames else "sqlite")


@pytest.fixture
def memory(settings, django_db_setup, django_db_blocker):
    """An SQLite in memory, migrated, as the database of the tasks; other threads share it."""
    alias = "memory"
    name = "file:taskstate-tests?mode=memory&cache=shared"
    connections.settings[alias] = {**connections.settings["default"], "NAME": name}
    settings.DRAMATIQ_TASKS_DATABASE = alias
    with django_db_blocker.unblock():
        # Its connection keeps the database in being.
        call_command("migrate", database=alias, verbosity=0)
        yield alias
        stop_writers()
        BaseDatabaseWrapper.close(connections[alias])  # Django's own does nothing.
    del connections[alias]
    del connections.settings[alias]
    find_obstacle.cache_clear()


@pytest.fixture
def users(database):
    """A function that makes users."""
    with use_users() as make:
        yield make


@pytest.fixture
def anna(users):
    return users("anna")


@pytest.fixture
def bert(users):
    return users("bert")


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
    assert bench.writer.thread._thread is None
