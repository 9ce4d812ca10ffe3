"""The settings: read live, and never able to stop a worker."""

import dataclasses
import logging
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from taskstate import conf
from tests.support import two_tenants

GOOD = [
    ("FLUSH_INTERVAL", 0),
    ("FLUSH_INTERVAL", 0.25),
    ("FLUSH_INTERVAL", 3600),
    ("MAX_BATCH_SIZE", 1),
    ("MAX_PENDING", 10_000_000),
    ("MAX_PENDING_BYTES", 1024**2),
    ("MAX_PENDING_BYTES", 1024**4),
    ("SHUTDOWN_TIMEOUT", 0),
    ("MAX_STREAMS", 0),
    ("MAX_STREAMS", 10_000),
    ("SYNCHRONOUS", True),
    ("STORE", "auto"),
    ("STORE", "orm"),
    ("STORE", "upsert"),
    ("TENANT", None),
    ("TENANT", "tests.support.two_tenants.current_tenant"),
    ("TENANT", two_tenants.current_tenant),
    ("VISIBLE_TASKS", ""),
    ("TRUSTED_ENCODERS", []),
    ("TRUSTED_ENCODERS", ("dramatiq.encoder.JSONEncoder",)),
]
BAD = [
    ("FLUSH_INTERVAL", -0.1, "out of range"),
    ("FLUSH_INTERVAL", 3601, "out of range"),
    ("FLUSH_INTERVAL", float("nan"), "out of range"),
    ("FLUSH_INTERVAL", float("inf"), "out of range"),
    ("FLUSH_INTERVAL", "1", "not a number"),
    ("FLUSH_INTERVAL", None, "not a number"),
    ("FLUSH_INTERVAL", True, "not a number"),
    ("MAX_BATCH_SIZE", 0, "out of range"),
    ("MAX_BATCH_SIZE", 1.0, "not a whole number"),
    ("MAX_PENDING", False, "not a whole number"),
    ("MAX_PENDING_BYTES", 1024**2 - 1, "out of range"),
    ("MAX_PENDING_BYTES", 1024**4 + 1, "out of range"),
    ("MAX_PENDING_BYTES", 1e9, "not a whole number"),
    ("MAX_PENDING_BYTES", "256 MiB", "not a whole number"),
    ("SHUTDOWN_TIMEOUT", [1], "not a number"),
    ("MAX_STREAMS", -1, "out of range"),
    ("MAX_STREAMS", None, "not a whole number"),
    ("SYNCHRONOUS", "yes", "SYNCHRONOUS is 'yes'"),
    ("SYNCHRONOUS", 0, "SYNCHRONOUS is 0"),
    ("STORE", "ORM", "STORE is 'ORM'"),
    ("STORE", None, "STORE is None"),
    ("STORE", ["orm"], "STORE is ['orm']"),
    ("TENANT", 7, "TENANT is 7, which is neither a function nor the dotted path of one"),
    ("VISIBLE_TASKS", ["a.b"], "neither a function"),
    ("TRUSTED_ENCODERS", "mysite.Encoder", "not a list of dotted paths"),
    ("TRUSTED_ENCODERS", None, "not a list of dotted paths"),
    ("TRUSTED_ENCODERS", [dict], "not a list of dotted paths"),
    ("FLUSH_INTERVALL", 1, "not a key of TASKSTATE"),
    (7, 1, "not a key of TASKSTATE"),
]


def values_of(options):
    """Return all values that are in force."""
    fields = dataclasses.fields(conf.Config)
    return conf.Config(**{field.name: getattr(options, field.name) for field in fields})


@pytest.fixture(autouse=True)
def nothing_reported_yet():
    conf._logged.clear()
    yield
    conf._logged.clear()


def test_defaults_are_the_documented_ones(settings):
    """As the documentation has them."""
    del settings.TASKSTATE
    assert values_of(conf.Options()) == conf.Config(
        flush_interval=0.5,
        max_batch_size=1000,
        max_pending=100_000,
        max_pending_bytes=268_435_456,
        shutdown_timeout=10.0,
        synchronous=False,
        store="auto",
        max_streams=200,
    )


@pytest.fixture
def settings(settings):
    settings.TASKSTATE = {}
    return settings


@pytest.mark.parametrize(("key", "value"), GOOD)
def test_good_values_are_taken(key, value, settings):
    """The ends of each range belong to it."""
    settings.TASKSTATE = {key: value}

    assert conf.find_problem(key, value) is None
    assert getattr(values_of(conf.Options()), key.lower()) == value


@pytest.mark.parametrize(("key", "value", "words"), BAD)
def test_the_default_is_used_for_a_bad_value_and_that_is_logged_once(
    key, value, words, settings, caplog
):
    """The other values apply; the message states the key, the value and what to do."""
    settings.TASKSTATE = (
        {key: value, "MAX_BATCH_SIZE": 7} if key != "MAX_BATCH_SIZE" else {key: value}
    )
    options = [conf.Options() for _ in range(2)]
    for _ in range(3):
        for read in options:
            assert dict(vars(values_of(read)), max_batch_size=0) == dict(
                vars(conf.Config()), max_batch_size=0
            )

    (record,) = caplog.records
    assert words in record.message
    assert repr(value if key in conf.DEFAULTS else key) in record.message
    if key != "MAX_BATCH_SIZE":
        assert options[0].max_batch_size == 7


def test_settings_are_read_live(settings):
    """Whenever Django signals that they have changed."""
    read = conf.Options()
    settings.TASKSTATE = {"MAX_PENDING": 5}
    assert read.max_pending == 5
    settings.TASKSTATE = {"MAX_PENDING": 6}
    assert read.max_pending == 6
    settings.TASKSTATE = {}
    assert read.max_pending == 100_000


def test_settings_are_not_looked_up_at_every_push(settings, monkeypatch):
    """Only once per change."""
    read = conf.Options()
    settings.TASKSTATE = {"MAX_PENDING": 5}
    looked = []
    monkeypatch.setattr(conf, "raw_settings", lambda: looked.append(1) or {"MAX_PENDING": 5})
    for _ in range(3):
        assert read.max_pending == 5
    assert looked == [1]


def test_an_interrupted_look_up_is_repeated(settings, monkeypatch):
    """Dramatiq may raise an exception anywhere: the settings don't count as read then."""
    settings.TASKSTATE = {"MAX_PENDING": 5}
    read = conf.Options(flush_interval=7)
    with monkeypatch.context() as patch:
        patch.setattr(conf, "_valid_values", lambda raw: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            read.max_pending  # noqa: B018 - it is read

    assert (read.max_pending, read.flush_interval) == (5, 7)


def test_no_dictionary(settings, caplog):
    """Defaults, and one line."""
    settings.TASKSTATE = ["FLUSH_INTERVAL"]
    for _ in range(2):
        assert values_of(conf.Options()) == conf.Config()

    (record,) = caplog.records
    assert "not a dictionary" in record.message


def test_the_nearest_known_key_is_named():
    """The message for a mistyped key suggests the right one."""
    for wrong, right in [
        ("FLUSH_INTERVALL", "FLUSH_INTERVAL"),
        ("flush_interval", "FLUSH_INTERVAL"),
        ("BATCH_SIZE", "MAX_BATCH_SIZE"),
        ("SYNC", "SYNCHRONOUS"),
    ]:
        assert f"Did you mean {right!r}" in conf.find_problem(wrong, 1).hint


@pytest.fixture
def database(settings):
    """The entry of the tasks' database, for a test to change as test runners do."""
    entry = dict(connections.settings["default"])
    connections.settings["changing"] = entry
    settings.DRAMATIQ_TASKS_DATABASE = "changing"
    yield entry
    del connections.settings["changing"]


IN_MEMORY = [":memory:", "file:memorydb_default?mode=memory&cache=shared"]


@pytest.mark.parametrize("name", IN_MEMORY)
def test_synchronous_is_the_default_in_memory(name, database, caplog):
    """From when the test runner has changed the name, until it changes it back; logged once."""
    caplog.set_level(logging.DEBUG, "taskstate")
    options = [conf.Options() for _ in range(2)]
    was = database["NAME"]
    for present, expected in [(was, False), (name, True), (was, False), (name, True)]:
        database["NAME"] = present
        conf.check_database()
        assert [read.synchronous for read in options] == [expected] * 2

    (record,) = caplog.records
    assert record.levelno == logging.DEBUG
    assert "'changing' is an SQLite database in memory" in record.message


def test_synchronous_is_what_is_set(database, settings):
    """In the settings or as an argument."""
    database["NAME"] = IN_MEMORY[1]
    conf.check_database()
    assert values_of(conf.Options(synchronous=False)).synchronous is False
    settings.TASKSTATE = {"SYNCHRONOUS": False}
    assert values_of(conf.Options()).synchronous is False
    assert values_of(conf.Options(synchronous=True)).synchronous is True


def test_the_default_is_used_for_a_wrong_value_of_synchronous(database, settings, caplog):
    """The default is taken, whichever it is."""
    database["NAME"] = IN_MEMORY[1]
    conf.check_database()
    settings.TASKSTATE = {"SYNCHRONOUS": "yes"}

    assert values_of(conf.Options()).synchronous is True
    assert "SYNCHRONOUS is 'yes'" in caplog.text


@pytest.mark.parametrize(
    "entry",
    [
        {"ENGINE": "django.db.backends.postgresql", "NAME": "mode=memory"},
        {"ENGINE": "django.db.backends.sqlite3", "NAME": Path("db.sqlite3")},
        {"ENGINE": "no.such.backend", "NAME": ":memory:"},
        {},
    ],
)
def test_other_databases_are_not_in_memory(entry, database):
    """Whatever their names; other checks report what is wrong with them."""
    database.clear()
    database.update(entry)

    assert not conf.is_in_memory()


def test_a_change_of_the_database_counts_once(database):
    """All readers read the settings again, and only once."""
    conf.check_database()
    count = conf._state.changes
    database["NAME"] = "another"
    conf.check_database()
    conf.check_database()

    assert conf._state.changes == count + 1


class Site:
    """What the functions of a site may be like."""

    def __call__(self):
        return "called"

    @staticmethod
    def with_request(request):
        return request


def test_a_function_is_imported_once(settings, monkeypatch):
    """When it is first needed; and again when the setting has changed."""
    imported = []
    monkeypatch.setattr(conf, "import_string", lambda path: imported.append(path) or Site())
    for path in ("a.b", "c.d"):
        settings.TASKSTATE = {"TENANT": path}
        assert [conf.TENANT.function() for _ in range(3)] == ["called"] * 3
    # To look whether it can be imported, and then to have it.
    assert imported == ["a.b", "a.b", "c.d", "c.d"]
    settings.TASKSTATE = {}
    assert conf.TENANT.function is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("nowhere.at_all", "'nowhere.at_all', which can't be imported (No module named 'nowhere')"),
        ("nowhere", "which can't be imported"),
        ("tests.support.two_tenants.nothing", "which can't be imported"),
        ("tests.support.two_tenants.SETTINGS", "which is of type dict and can't be called"),
        (Site.with_request, "which takes other arguments"),
    ],
)
def test_a_function_that_can_not_be_imported_raises_when_it_is_called(value, text, settings):
    """The error states the key, the value and what to do.  The setting is read long before."""
    settings.TASKSTATE = {"TENANT": value}

    with pytest.raises(ImproperlyConfigured, match="TASKSTATE: TENANT is ") as caught:
        conf.TENANT.function()
    assert text in str(caught.value)
    assert "a function that takes no arguments, such as 'mysite." in str(caught.value)


def test_a_function_may_be_importable_later(settings, monkeypatch):
    """Its module may need models: before they are loaded, a failure is not the last word."""
    settings.TASKSTATE = {"TENANT": "tests.support.two_tenants.current_tenant"}
    with monkeypatch.context() as patch:
        patch.setattr(conf, "import_string", lambda path: 1 / 0)
        patch.setattr(conf.apps, "models_ready", False)
        with pytest.raises(ImproperlyConfigured, match="division by zero"):
            conf.TENANT.function()

    assert conf.TENANT.function is two_tenants.current_tenant
