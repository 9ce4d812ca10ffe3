"""Which store it is, and the reasons why the fast one can't be had."""

import pytest
from django.contrib.auth import get_user_model
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.db import OperationalError, connections

from taskstate.middleware import StateMiddleware
from taskstate.models import Task
from taskstate.stores import selection
from taskstate.stores.orm import OrmStore
from taskstate.stores.upsert import UpsertStore
from tests.support.factories import make_transition
from tests.support.limits import LIMIT_SECONDS


@pytest.fixture(autouse=True)
def forget():
    selection.find_obstacle.cache_clear()
    yield
    selection.find_obstacle.cache_clear()


@pytest.fixture
def pretend(database, monkeypatch):
    """The connection to the database, to pretend that it is something else."""
    connection = connections[database]
    connection.ensure_connection()

    def be(**values):
        for name, value in values.items():
            monkeypatch.setattr(type(connection), name, value)
            vars(connection).pop(name, None)  # Django keeps what it has asked for.

    yield be
    for name in ("pg_version", "mysql_version", "mysql_is_mariadb"):
        vars(connection).pop(name, None)


OLD = {
    "default": {"Database": type("Database", (), {"sqlite_version_info": (3, 37, 2)})},
    "postgres": {"pg_version": 90624},
    "mariadb": {"mysql_version": (10, 5, 29)},
}


def open_store(name):
    return selection.open_store(name, lambda: True)


def test_the_upsert_store_is_used_if_possible(database):
    """On every database that the tests run on."""
    assert type(open_store("auto")) is UpsertStore
    assert type(open_store("upsert")) is UpsertStore
    assert type(open_store("orm")) is OrmStore


def test_an_old_database(database, pretend):
    """The ORM store by itself; where the upsert was asked for, the reason and what to do."""
    pretend(**OLD[database])

    assert type(open_store("auto")) is OrmStore
    with pytest.raises(
        ImproperlyConfigured, match=r"is .* \d.*, not .* or later. Set STORE to 'auto'"
    ):
        open_store("upsert")


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_mysql(database, pretend):
    """The statement was never tried there."""
    pretend(mysql_is_mariadb=False)

    assert type(open_store("auto")) is OrmStore
    with pytest.raises(ImproperlyConfigured, match="is MySQL, not PostgreSQL, SQLite or MariaDB"):
        open_store("upsert")


def test_stricter_transactions(server_database):
    """They would not see a clear that they have waited for."""
    level = "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ"
    if server_database == "mariadb":
        level = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ"
    with connections[server_database].cursor() as cursor:
        cursor.execute(level)

    assert type(open_store("auto")) is OrmStore
    with pytest.raises(ImproperlyConfigured, match="is 'repeatable read', not 'read committed'"):
        open_store("upsert")


def test_a_database_that_is_away(sqlite, monkeypatch):
    """It is asked again until it answers.  No store is chosen before that."""
    connection = connections[sqlite]
    connection.close()
    with monkeypatch.context() as patch:
        patch.setattr(connection, "get_new_connection", fail)
        with pytest.raises(OperationalError):
            open_store("auto")

    assert type(open_store("auto")) is UpsertStore


def test_a_connection_that_breaks_meanwhile(sqlite, monkeypatch):
    """Nothing else would close it, and every later try would use it again."""
    connection = connections[sqlite]
    with monkeypatch.context() as patch:
        patch.setattr(selection, "_check_isolation", fail)
        with pytest.raises(OperationalError):
            open_store("auto")

    assert connection.connection is None
    assert type(open_store("auto")) is UpsertStore


def test_a_user_key_that_is_stored_in_a_way_of_its_own(database, monkeypatch):
    """Only the ORM knows how."""
    key = type(get_user_model()._meta.pk)

    def get_db_prep_value(field, value, connection, *prepared):
        return value

    monkeypatch.setattr(key, "get_db_prep_value", get_db_prep_value)

    assert type(open_store("auto")) is OrmStore
    with pytest.raises(ImproperlyConfigured, match="converts its values by itself"):
        open_store("upsert")


def fail(*arguments):
    raise OperationalError("no answer")


def test_the_system_check_finds_an_unusable_store(database, settings, pretend):
    """If it may ask the database: ``migrate`` and ``check --database`` do."""
    settings.TASKSTATE = {"STORE": "upsert"}
    assert problems(database) == []
    selection.find_obstacle.cache_clear()
    pretend(**OLD[database])

    (problem,) = problems(database)
    assert problem.id == "taskstate.E008"
    assert "STORE is 'upsert', but the database" in problem.msg
    assert "Set STORE to 'auto'" in problem.hint
    assert problems() == []
    settings.TASKSTATE = {"STORE": "auto"}
    assert problems(database) == []


def problems(*databases):
    found = run_checks(databases=list(databases) or None)
    return [problem for problem in found if problem.id.startswith("taskstate.E")]


@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_an_upsert_store_that_is_not_possible_is_an_outage(database, pretend, caplog, monkeypatch):
    """Without the checks, the reason is in the log, and nothing is lost."""
    pretend(**OLD[database])
    state = StateMiddleware(store="upsert")
    state._writer.push(make_transition())
    assert not state._writer.flush(0.5)
    assert (
        "STORE'] is 'upsert', but the database 'default' is SQLite 3.37.2, not SQLite 3.38 or later"
        in caplog.text
    )

    monkeypatch.undo()
    selection.find_obstacle.cache_clear()
    assert state._writer.flush(LIMIT_SECONDS)
    assert Task.objects.count() == 1


@pytest.mark.parametrize(
    ("setting", "is_kept"), [("DATABASES", False), ("AUTH_USER_MODEL", False), ("DEBUG", True)]
)
def test_settings_that_a_test_overrides(sqlite, setting, is_kept):
    """What is known of a database is forgotten if it may be another one now."""
    open_store("auto")
    assert selection.find_obstacle.cache_info().currsize == 1

    setting_changed.send(sender=None, setting=setting, value=None, enter=False)

    assert selection.find_obstacle.cache_info().currsize == is_kept
