"""System checks: each has an id, the wrong value, and what to do."""

import pytest
from django.core import checks
from django.db import connections, transaction

from taskstate.checks import MIDDLEWARE_PATH, check_settings, check_tables
from taskstate.conf import check_app
from taskstate.middleware import StateMiddleware
from tests.support.databases import use_database


class Ours(StateMiddleware):
    """A project's own subclass."""


@pytest.fixture
def run(settings):
    def run(middleware=(MIDDLEWARE_PATH,), **changes):
        settings.DRAMATIQ_BROKER = {"MIDDLEWARE": list(middleware)}
        for name, value in changes.items():
            setattr(settings, name, value)
        return check_settings()

    return run


def test_manage_py_check_runs_them():
    """They are registered when the app is ready."""
    assert check_settings in checks.registry.registry.get_checks()


@pytest.mark.parametrize(
    "middleware",
    [
        [MIDDLEWARE_PATH],
        ["dramatiq.middleware.Retries", MIDDLEWARE_PATH],
        [StateMiddleware(flush_interval=0.2)],
        [Ours()],
        ["tests.test_checks.Ours"],
    ],
)
def test_a_correct_project_has_no_warnings(run, middleware):
    """By path, as an instance, as a subclass."""
    assert run(middleware, TASKSTATE={"FLUSH_INTERVAL": 1}) == []


def test_the_app_is_missing(settings):
    """Its own ready() can't report that, so creating a middleware registers the check."""
    assert check_app in checks.registry.registry.get_checks()
    assert check_app() == []
    settings.INSTALLED_APPS = ["django_dramatiq"]

    (message,) = check_app()
    assert message.id == "taskstate.E001"
    assert "'taskstate' is missing from INSTALLED_APPS" in message.msg
    assert "Add 'taskstate' to INSTALLED_APPS" in message.hint
    assert message.hint.endswith(". See docs/troubleshooting.md#a-task-is-missing.")
    assert MIDDLEWARE_PATH.rpartition(".")[2] in message.hint


@pytest.mark.parametrize("middleware", [[], ["dramatiq.middleware.Retries"], ["no.such.Module"]])
def test_middleware_missing(run, middleware):
    """Without it no task is tracked."""
    (message,) = run(middleware)

    assert message.id == "taskstate.W001"
    assert repr(middleware) in message.msg
    assert MIDDLEWARE_PATH in message.hint
    assert message.hint.endswith(". See docs/troubleshooting.md#a-task-stays-enqueued.")


def test_no_broker_settings(run, settings):
    """A project that is not finished gets the same message."""
    for value in (None, "stub"):
        settings.DRAMATIQ_BROKER = value
        assert [message.id for message in check_settings()] == ["taskstate.W001"]


def test_middleware_twice(run):
    """Each would stamp a message."""
    (message,) = run([MIDDLEWARE_PATH, StateMiddleware()])

    assert message.id == "taskstate.E002"
    assert "2 times" in message.msg
    assert message.hint == "Keep one of them."


def test_unknown_key(run):
    """The nearest known one is named."""
    (message,) = run(TASKSTATE={"FLUSH_INTERVALL": 1})

    assert message.id == "taskstate.E003"
    assert "'FLUSH_INTERVALL'" in message.msg
    assert "'FLUSH_INTERVAL'" in message.hint


@pytest.mark.parametrize("value", ["1", -1, None, True])
def test_wrong_value(run, value):
    """Of the wrong type, or out of range."""
    (message,) = run(TASKSTATE={"FLUSH_INTERVAL": value})

    assert message.id == "taskstate.E004"
    assert repr(value) in message.msg
    assert "seconds from 0 to 3,600; the default is 0.5" in message.hint


#: Where the symptom of a function that can't be called is described.
SYMPTOMS = {
    "taskstate.E020": "a-task-stays-enqueued",
    "taskstate.E021": "connection-lost-trying-again",
    "taskstate.E025": "a-task-failed-without-an-error",
}


@pytest.mark.parametrize(
    ("key", "value", "id_"),
    [
        ("TENANT", "tests.nowhere.present", "taskstate.E020"),
        ("TENANT", "tests.support.two_tenants.SETTINGS", "taskstate.E020"),
        ("TENANT", "tests.support.two_tenants.tenant", "taskstate.E020"),
        ("VISIBLE_TASKS", "tests.support.two_tenants.current_tenant", "taskstate.E021"),
        ("USER_ERROR", "tests.support.two_tenants.current_tenant", "taskstate.E025"),
        ("TENANT", 7, "taskstate.E004"),
    ],
)
def test_functions_of_the_settings_that_can_not_be_called(key, value, id_, run):
    """With the key, the value, what would be right, and the symptom."""
    (message,) = run(TASKSTATE={key: value})

    assert message.id == id_
    assert f"TASKSTATE: {key} is {value!r}" in message.msg
    assert "the dotted path of a function that takes" in message.hint
    if id_ in SYMPTOMS:
        assert message.hint.endswith(f". See docs/troubleshooting.md#{SYMPTOMS[id_]}.")
    assert run(TASKSTATE={"TENANT": "tests.support.two_tenants.current_tenant"}) == []


@pytest.mark.parametrize(
    ("value", "id_", "text"),
    [
        (["tests.nowhere.Encoder"], "taskstate.E024", "names 'tests.nowhere.Encoder', which can't"),
        (["nowhere"], "taskstate.E024", "can't be imported"),
        (
            ["tests.support.two_tenants.SETTINGS"],
            "taskstate.E024",
            "is of type dict and not a class",
        ),
        ("dramatiq.encoder.JSONEncoder", "taskstate.E004", "is not a list of dotted paths"),
        ([7], "taskstate.E004", "is not a list of dotted paths"),
    ],
)
def test_encoders_that_can_not_be_imported(value, id_, text, run):
    """With the value, and what would be right."""
    (message,) = run(TASKSTATE={"TRUSTED_ENCODERS": value})

    assert message.id == id_
    assert text in message.msg
    assert "a list of the dotted paths of encoder classes" in message.hint
    assert run(TASKSTATE={"TRUSTED_ENCODERS": ["dramatiq.encoder.JSONEncoder"]}) == []


def tenant_site(users="tenants", **changes):
    """The settings of a site with a schema per tenant, but for its database."""
    of_tenants = ["django.contrib.auth"] if users == "tenants" else ["mysite.pages"]
    return {
        "SHARED_APPS": ["django_tenants", "django.contrib.auth", "taskstate"],
        "TENANT_APPS": of_tenants,
        "TASKSTATE": {"TENANT": "tests.support.two_tenants.current_tenant"},
        **changes,
    }


@pytest.mark.parametrize("engine", ["django_tenants.postgresql_backend", "tenant_schemas.x"])
@pytest.mark.parametrize(
    ("changes", "id_", "text"),
    [
        ({}, None, ""),
        ({"TASKSTATE": {}}, "taskstate.E022", "users of different tenants have the same keys"),
        ({"TASKSTATE": {}, "users": "shared"}, "taskstate.W020", "staff see the tasks of all"),
        (
            {"TENANT_APPS": ["taskstate"]},
            "taskstate.E023",
            "'taskstate' is one of TENANT_APPS",
        ),
        ({"TENANT_APPS": ["taskstate.apps.TaskstateConfig"]}, "taskstate.E023", "is one of"),
        ({"SHARED_APPS": ["django_tenants"]}, "taskstate.E023", "not one of SHARED_APPS"),
        (
            {
                "HAS_MULTI_TYPE_TENANTS": True,
                "TENANT_TYPES": {"public": {"APPS": ["taskstate"]}, "b": {"APPS": ["taskstate"]}},
            },
            "taskstate.E023",
            "is one of TENANT_APPS",
        ),
        (
            {
                "HAS_MULTI_TYPE_TENANTS": True,
                "TENANT_TYPES": {"public": {"APPS": ["taskstate"]}, "b": {"APPS": []}},
                "SHARED_APPS": [],
            },
            None,
            "",
        ),
    ],
)
def test_a_schema_per_tenant(engine, changes, id_, text, run, settings, monkeypatch):
    """It needs ``TENANT``, and the tables in the shared schema alone."""
    assert connections["default"].vendor == "sqlite"  # From now on it is there.
    monkeypatch.setitem(settings.DATABASES["default"], "ENGINE", engine)
    messages = run(**tenant_site(**changes))

    assert [message.id for message in messages] == ([id_] if id_ else [])
    for message in messages:
        assert text in message.msg
        assert "TASKSTATE['TENANT']" in message.hint
        assert message.hint.endswith(". See docs/guides/tenants.md#a-schema-per-tenant.")


def test_a_schema_per_tenant_in_another_database(run, settings, monkeypatch):
    """Then the tables of tasks are not among those of the tenants; users may be."""
    engine = "django_tenants.postgresql_backend"
    monkeypatch.setitem(settings.DATABASES, "sites", {"ENGINE": engine})
    site = tenant_site(TENANT_APPS=["taskstate", "django.contrib.auth"])

    assert run(**site) == []
    assert [message.id for message in run(**{**site, "TASKSTATE": {}})] == ["taskstate.E022"]


def test_unknown_database(run, settings):
    """The known ones are named."""
    (message,) = run(DRAMATIQ_TASKS_DATABASE="reports")

    assert message.id == "taskstate.E005"
    assert "'reports'" in message.msg
    assert "'default'" in message.hint


def test_unsupported_database(run, monkeypatch):
    """Written to, it would be an outage without an end."""
    monkeypatch.setattr(type(connections["default"]), "vendor", "oracle")
    monkeypatch.setattr(type(connections["default"]), "display_name", "Oracle")
    (message,) = run()

    assert message.id == "taskstate.E007"
    assert "'default': it is Oracle" in message.msg
    assert "PostgreSQL" in message.hint


def test_no_dictionary(run):
    """The keys are named."""
    (message,) = run(TASKSTATE=["SYNCHRONOUS"])

    assert message.id == "taskstate.E006"
    assert "['SYNCHRONOUS']" in message.msg
    assert "FLUSH_INTERVAL" in message.hint


@pytest.mark.parametrize("alias", ["default", "postgres"])
def test_the_table_of_the_other_project(alias, settings, django_db_setup, django_db_blocker):
    """It has our table's name and columns of its own: that is found before ``migrate`` runs."""
    with use_database(alias, settings, django_db_blocker), transaction.atomic(using=alias):
        assert check_tables(databases=[alias]) == []
        with connections[alias].cursor() as cursor:
            cursor.execute("ALTER TABLE taskstate_task ADD COLUMN message_data text NULL")

        (error,) = check_tables(databases=[alias])
        assert error.id == "taskstate.E009"
        assert f"'taskstate_task' in the database '{alias}'" in error.msg
        assert "migrate taskstate zero" in error.hint
        assert error.hint.endswith(". See docs/guides/upgrading.md#before-you-begin.")
        assert check_tables(databases=["another"]) == check_tables() == []
        transaction.set_rollback(True, using=alias)


def test_before_the_first_migrate_there_is_no_table(settings, sqlite):
    """And nothing to complain of."""
    with transaction.atomic(using=sqlite):
        with connections[sqlite].cursor() as cursor:
            cursor.execute("ALTER TABLE taskstate_task RENAME TO taskstate_gone")
        assert check_tables(databases=[sqlite]) == []
        transaction.set_rollback(True, using=sqlite)
