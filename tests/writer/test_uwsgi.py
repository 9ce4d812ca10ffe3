"""Forks of uWSGI, and the options that it needs."""

import os
import sys
from types import SimpleNamespace

import pytest

from taskstate.middleware import StateMiddleware
from taskstate.writer import lifecycle
from taskstate.writer import uwsgi as uwsgi_hooks


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
