"""The public functions, over all writers of the process."""

from types import SimpleNamespace
from weakref import WeakSet

import taskstate
from taskstate.middleware import StateMiddleware
from taskstate.utils import sync
from taskstate.writer import lifecycle
from taskstate.writer.writer import Writer
from tests.support.factories import make_id, make_transition
from tests.support.limits import LIMIT_SECONDS


def test_the_public_names():
    """As the documentation has them."""
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


def test_a_fork_that_can_not_wait_is_logged(monkeypatch, caplog):
    """Its child may hang, and the log of the parent says why."""

    class Hanging:
        def before_fork(self, seconds):
            return False

    writer = Hanging()
    monkeypatch.setattr(lifecycle._state, "writers", WeakSet([writer]))
    lifecycle._before_fork()

    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "takes longer than 10 seconds" in record.getMessage()
