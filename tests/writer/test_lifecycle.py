"""The public functions, over all writers of the process."""

import dataclasses
import os
import sys
from types import SimpleNamespace
from weakref import WeakSet

import pytest

import taskstate
from taskstate.middleware import StateMiddleware
from taskstate.utils import sync
from taskstate.writer import lifecycle
from taskstate.writer import uwsgi as uwsgi_hooks
from taskstate.writer.writer import Writer
from tests.support.factories import make_id, make_transition
from tests.support.limits import LIMIT_SECONDS


def test_the_public_names():
    """As the README has them."""
    assert taskstate.__all__ == [
        "BrokerUnavailableError",
        "ResendError",
        "Stats",
        "UserFacingError",
        "__version__",
        "current_task_id",
        "flush",
        "resend",
        "set_progress",
        "set_result",
        "stats",
        "track",
    ]
    assert taskstate.__version__ == "0.4.0.dev0"


def test_flush_and_stats_cover_every_writer(sqlite):
    """A process may have more than one broker."""
    before = taskstate.stats()
    states = [StateMiddleware() for _ in range(2)]
    for number, state in enumerate(states):
        state._writer.push(make_transition(message_id=make_id(number)))

    assert taskstate.flush(LIMIT_SECONDS)
    stats = taskstate.stats()
    assert stats.rows_written - before.rows_written == 2
    assert stats.pending == 0
    assert stats.last_flush_seconds > 0


def test_stats_include_what_was_written_synchronously(sqlite, settings):
    """It is a flush like any other."""
    settings.TASKSTATE = {"SYNCHRONOUS": True}
    before = taskstate.stats()
    state = StateMiddleware()
    state._sink._synchronous_writer.push(make_transition())

    assert taskstate.stats().rows_written - before.rows_written == 1


def test_stats_are_frozen():
    """A picture of a moment."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        taskstate.stats().pending = 1


def test_every_statistic_is_summed():
    """None is forgotten when one is added."""
    names = [field.name for field in dataclasses.fields(taskstate.Stats)]
    last = {"last_error": "a", "last_flush_seconds": 1.0, "oldest_pending_seconds": 9.0}
    one = taskstate.Stats(**{**dict.fromkeys(names, 1), **last})

    total = one + dataclasses.replace(one, oldest_pending_seconds=3.0)

    assert dataclasses.asdict(total) == {**dict.fromkeys(names, 2), **last}
    assert one + taskstate.Stats() == taskstate.Stats() + one == one


def test_all_writers_share_the_timeout_of_a_flush(monkeypatch):
    """The timeout is for the whole call: the second writer gets the time that the first leaves."""
    now = [100.0]
    limits = []

    def flush(writer, timeout):
        limits.append(timeout)
        now[0] += 2
        return False

    monkeypatch.setattr(lifecycle._state, "writers", WeakSet())
    monkeypatch.setattr(Writer, "flush", flush)
    monkeypatch.setattr(sync, "time", SimpleNamespace(monotonic=lambda: now[0]))
    states = [StateMiddleware() for _ in range(3)]
    for state in states:
        lifecycle.register(state._writer)

    assert not taskstate.flush(5)
    assert limits == [5, 3, 1]


def test_a_failing_last_flush_does_not_break_the_exit(monkeypatch, caplog):
    """The other writers are flushed."""
    states = [StateMiddleware() for _ in range(2)]
    for state in states:
        lifecycle.register(state._writer)
    monkeypatch.setattr(Writer, "stop", lambda writer: 1 / 0)
    lifecycle._stop_writers()
    lifecycle._state.writers.clear()

    assert caplog.text.count("ZeroDivisionError") == 2


def decorate(module, name):
    """Do what an import of ``uwsgidecorators`` does."""
    assert name == "uwsgidecorators"
    module.post_fork_hook = lambda: module.calls.append("decorated")


@pytest.fixture
def uwsgi(monkeypatch):
    """The module that uWSGI provides in its processes, without any hooks."""
    module = SimpleNamespace(has_threads=1, masterpid=os.getppid, opt={}, calls=[])
    monkeypatch.setitem(sys.modules, "uwsgi", module)
    monkeypatch.setattr(uwsgi_hooks.importlib, "import_module", lambda name: decorate(module, name))
    monkeypatch.setattr(lifecycle, "_state", lifecycle._State())
    monkeypatch.setattr(lifecycle.os, "register_at_fork", lambda **hooks: None)
    return module


def test_a_fork_by_uwsgi_resets_the_writer(uwsgi):
    """The child starts without pending tasks, and other hooks are called as well."""
    uwsgi.post_fork_hook = lambda: uwsgi.calls.append("theirs")
    state = StateMiddleware()
    buffer = state._writer._buffer
    lifecycle.register(state._writer)

    uwsgi.post_fork_hook()

    assert state._writer._buffer is not buffer
    assert uwsgi.calls == ["theirs", "decorated"]


@pytest.mark.parametrize(
    ("changes", "warnings"),
    [
        ({}, []),
        ({"has_threads": 0}, ["enable-threads"]),
        ({"masterpid": os.getpid}, ["lazy-apps"]),
        ({"masterpid": os.getpid, "opt": {"py-call-uwsgi-fork-hooks": True}}, []),
    ],
)
def test_wrong_options_of_uwsgi_are_logged(uwsgi, changes, warnings, caplog):
    """They are logged once: without them, the writer hardly ever runs, or a worker hangs."""
    vars(uwsgi).update(changes)
    for state in [StateMiddleware(), StateMiddleware()]:
        lifecycle.register(state._writer)

    assert len(caplog.records) == len(warnings)
    assert all(text in caplog.text for text in warnings)


def test_a_forked_child_counts_what_it_writes_synchronously(sqlite, settings):
    """What its parent has written is not counted."""
    settings.TASKSTATE = {"SYNCHRONOUS": True}
    writer = StateMiddleware()._sink._synchronous_writer
    writer.push(make_transition())
    writer.after_fork_in_child()

    assert writer.stats() == taskstate.Stats()
