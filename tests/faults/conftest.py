"""What drills share: servers of their own, the database under test, and what they report."""

import signal

import pytest
from django.core.management import call_command
from django.db import connections

from tests.faults import private
from tests.faults.options import ALIAS, DATABASE, NIGHTLY
from tests.support.databases import stop_writers

# A shell lets what it starts in the background ignore these, and so would all that starts here.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

#: What the drills have found, for the summary: (name of the test, text).
REPORTS = []

if not NIGHTLY:
    # These are for the night alone.
    collect_ignore = ["test_other_suites.py"]


def pytest_terminal_summary(terminalreporter):
    terminalreporter.section("what the drills found")
    for name, text in REPORTS:
        terminalreporter.write_line(f"{name}: {text}")


@pytest.fixture
def report(request):
    """Say what a drill did and found: at once, and in the summary."""
    terminal = request.config.pluginmanager.getplugin("terminalreporter")
    name = request.node.name

    def say(text):
        REPORTS.append((name, text))
        terminal.write_line(f"  {name}: {text}")

    return say


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL of the drills' own."""
    with private.Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb():
    """A MariaDB of the drills' own."""
    with private.MariaDb() as server:
        yield server


@pytest.fixture
def pgbouncer(postgres):
    """A PgBouncer of the drills' own, before their PostgreSQL."""
    with private.PgBouncer(postgres) as server:
        yield server


@pytest.fixture(params=["postgres", "mariadb"])
def server(request):
    """Each server of the drills' own, in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def drilled(server, settings, django_db_setup, django_db_blocker):
    """A migrated database on ``server``, which this process reads by the ORM; its URL."""
    with private.database_on(server, DATABASE) as url, django_db_blocker.unblock():
        connections.settings[ALIAS] = private.settings_of(url)
        settings.DRAMATIQ_TASKS_DATABASE = ALIAS
        call_command("migrate", database=ALIAS, verbosity=0)
        yield url
        stop_writers()
        connections[ALIAS].close()
        del connections[ALIAS]
        del connections.settings[ALIAS]
