"""The settings: read live, and never able to stop a worker."""

import pytest

from taskstate import conf

GOOD = [
    ("FLUSH_INTERVAL", 0),
    ("FLUSH_INTERVAL", 0.25),
    ("FLUSH_INTERVAL", 3600),
    ("MAX_BATCH_SIZE", 1),
    ("MAX_PENDING", 10_000_000),
    ("SHUTDOWN_TIMEOUT", 0),
    ("SYNCHRONOUS", True),
    ("STORE", "auto"),
    ("STORE", "orm"),
    ("STORE", "upsert"),
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
    ("SHUTDOWN_TIMEOUT", [1], "not a number"),
    ("SYNCHRONOUS", "yes", "SYNCHRONOUS is 'yes'"),
    ("SYNCHRONOUS", 0, "SYNCHRONOUS is 0"),
    ("STORE", "ORM", "STORE is 'ORM'"),
    ("STORE", None, "STORE is None"),
    ("STORE", ["orm"], "STORE is ['orm']"),
    ("FLUSH_INTERVALL", 1, "no key of TASKSTATE"),
    (7, 1, "no key of TASKSTATE"),
]


@pytest.fixture(autouse=True)
def nothing_reported_yet():
    conf._reported.clear()
    yield
    conf._reported.clear()


def test_defaults_are_the_documented_ones(settings):
    """As the README has them."""
    del settings.TASKSTATE
    assert conf.Options()() == conf.Config(
        flush_interval=0.5,
        max_batch_size=1000,
        max_pending=100_000,
        shutdown_timeout=10.0,
        synchronous=False,
        store="auto",
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
    assert getattr(conf.Options()(), key.lower()) == value


@pytest.mark.parametrize(("key", "value", "words"), BAD)
def test_a_bad_value_falls_back_and_is_logged_once(key, value, words, settings, caplog):
    """The other values count; the message names the key, the value and the cure."""
    settings.TASKSTATE = (
        {key: value, "MAX_BATCH_SIZE": 7} if key != "MAX_BATCH_SIZE" else {key: value}
    )
    options = [conf.Options() for _ in range(2)]
    for _ in range(3):
        for read in options:
            assert dict(vars(read()), max_batch_size=0) == dict(
                vars(conf.Config()), max_batch_size=0
            )

    (record,) = caplog.records
    assert words in record.message
    assert repr(value if key in conf.DEFAULTS else key) in record.message
    if key != "MAX_BATCH_SIZE":
        assert options[0]().max_batch_size == 7


def test_settings_are_read_live(settings):
    """Whenever Django says that they have changed."""
    read = conf.Options()
    settings.TASKSTATE = {"MAX_PENDING": 5}
    assert read().max_pending == 5
    settings.TASKSTATE = {"MAX_PENDING": 6}
    assert read().max_pending == 6
    settings.TASKSTATE = {}
    assert read().max_pending == 100_000


def test_settings_are_not_looked_up_at_every_push(settings, monkeypatch):
    """Only once per change."""
    read = conf.Options()
    settings.TASKSTATE = {"MAX_PENDING": 5}
    looked = []
    monkeypatch.setattr(conf, "raw_settings", lambda: looked.append(1) or {"MAX_PENDING": 5})
    for _ in range(3):
        assert read().max_pending == 5
    assert looked == [1]


def test_an_interrupted_look_up_is_repeated(settings, monkeypatch):
    """Dramatiq may raise an exception anywhere: the settings don't count as read then."""
    settings.TASKSTATE = {"MAX_PENDING": 5}
    read = conf.Options(flush_interval=7)
    with monkeypatch.context() as patch:
        patch.setattr(conf, "_usable", lambda raw: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            read()

    assert (read().max_pending, read().flush_interval) == (5, 7)


def test_no_dictionary(settings, caplog):
    """Defaults, and one line."""
    settings.TASKSTATE = ["FLUSH_INTERVAL"]
    for _ in range(2):
        assert conf.Options()() == conf.Config()

    (record,) = caplog.records
    assert "not a dictionary" in record.message


def test_the_nearest_known_key_is_named():
    """Whoever mistypes a key is told the right one."""
    for wrong, right in [
        ("FLUSH_INTERVALL", "FLUSH_INTERVAL"),
        ("flush_interval", "FLUSH_INTERVAL"),
        ("BATCH_SIZE", "MAX_BATCH_SIZE"),
        ("SYNC", "SYNCHRONOUS"),
    ]:
        assert f"Did you mean {right!r}" in conf.find_problem(wrong, 1).hint
