"""Where transitions go: by the options in force, and by whether the app is installed."""

import logging
import threading

import pytest

from taskstate import conf
from taskstate.tracking.sink import TransitionSink
from taskstate.transitions.status import Status
from tests.support.bench import Bench
from tests.support.factories import make_transition


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setattr(conf, "_logged", {})
    bench = Bench()
    bench.options = conf.Options(synchronous=False)
    bench.sink = TransitionSink(bench.options, bench.writer, bench.synchronous)
    return bench


def push(bench, status=Status.ENQUEUED, **how):
    bench.sink.push(make_transition(status), **how)


def set_installed(bench, monkeypatch, *, answer):
    monkeypatch.setattr(conf, "is_installed", lambda: answer)
    bench.options.forget()


def test_without_the_app_nothing_is_kept_and_that_is_logged_once(bench, monkeypatch, caplog):
    """No thread, no exit hook, nothing to wait for: there is no table to write to."""
    set_installed(bench, monkeypatch, answer=False)
    bench.threads = True
    threads = threading.active_count()
    for _ in range(3):
        push(bench)
    push(bench, Status.DONE, waits=True)

    assert bench.writer.stats().pending == 0
    assert bench.writer.flush()
    assert bench.writer.stop()
    assert threading.active_count() == threads
    assert bench.registered == []
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "'taskstate' is missing from INSTALLED_APPS" in record.message
    assert "Add 'taskstate' to INSTALLED_APPS" in record.message


def test_transitions_are_kept_while_the_apps_are_loaded(bench, monkeypatch):
    """What is sent by then is kept."""
    set_installed(bench, monkeypatch, answer=None)
    push(bench)

    assert bench.writer.stats().pending == 1
    assert bench.writer._cycle.step() is None
    assert len(bench.store.committed) == 1


def test_the_options_are_current(bench, settings):
    """From one push to the next."""
    bench.options = conf.Options()
    bench.sink = TransitionSink(bench.options, bench.writer, bench.synchronous)
    for is_on in (True, False, True):
        settings.TASKSTATE = {"SYNCHRONOUS": is_on}
        push(bench)

    assert bench.synchronous.stats().transitions == 2
    assert bench.writer.stats().pending == 1
