"""Dramatiq stops a worker thread by an exception between any two bytecodes: here it is aimed at the
hooks, ten thousand times.

No hook may leave a lock behind, lose or double what it pushes, or harm the writer's thread.  The
traceback of an exception says where it was raised.
"""

import gc
import json
import sys
import types

import pytest

import taskstate
from benchmarks.workload.hooks import HOOKS
from taskstate.middleware import StateMiddleware
from taskstate.transitions import sanitize
from tests.faults.interrupts import (
    Account,
    Life,
    TracedLife,
    alive,
    elsewhere,
    interrupt,
    landed,
    places,
    run,
)
from tests.faults.options import NIGHTLY
from tests.support.databases import empty_tables
from tests.support.limits import LIMIT_SECONDS
from tests.support.processes import environment, run_script

#: How often, where the interpreter decides when an exception is raised, and where the drill does.
#: Where each message costs a commit it is less.
INJECTED, INJECTED_WAITING = (20_000, 5_000) if NIGHTLY else (1_000, 500)
TRACED, TRACED_WAITING = (200_000, 20_000) if NIGHTLY else (10_000, 1_000)
STARTED = 5_000 if NIGHTLY else 300
GREENLETS = 20_000 if NIGHTLY else 500
THREADS = 2
#: Seconds for all of them; only a busy machine takes as long.
LIMIT = 3600 if NIGHTLY else 200

both_modes = pytest.mark.parametrize("waits", [False, True], ids=["", "flush_before_ack"])


@pytest.fixture
def fine_switches():
    """Threads take turns as often as can be, so that an exception lands anywhere; but in no
    callback of the garbage collector, where it would be lost."""
    before = sys.getswitchinterval()
    gc.collect()
    gc.disable()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)
    gc.enable()


@pytest.fixture(autouse=True)
def _plain_tracebacks(monkeypatch):
    """Python formats an exception's text inside of a bare ``except``: what is raised there never
    arrives, and would be waited for without end."""
    plain = types.SimpleNamespace(format_exception=lambda *_, **__: ["Traceback"])
    monkeypatch.setattr(sanitize, "traceback", plain)


@pytest.fixture
def account(waits, sqlite):
    """Of a middleware whose writer's thread runs."""
    state = StateMiddleware(flush_before_ack=waits)
    Life(state).live()
    assert taskstate.flush(LIMIT_SECONDS)
    empty_tables(sqlite)
    return Account(state)


@both_modes
def test_exceptions_injected_by_another_thread(waits, account, fine_switches, report):
    """As Dramatiq's own middleware does it."""
    thread = account.writer.thread._thread
    lives = [Life(account.state) for _ in range(THREADS)]
    with alive(lives, LIMIT_SECONDS):
        # Waiting for a commit takes longer than all else.
        interrupt(lives, INJECTED_WAITING if waits else INJECTED, 0.003 if waits else 0.0003, LIMIT)

    check(account, lives, report, hit=["before_ack"] if waits else HOOKS)
    assert account.writer.thread._thread is thread, "the writer's thread ended"


@both_modes
def test_exceptions_before_any_bytecode(waits, account, fine_switches, report):
    """Also where this release of Python looks for none."""
    thread = account.writer.thread._thread
    times = (TRACED_WAITING if waits else TRACED) // THREADS
    lives = [TracedLife(account.state, times, prepare=lambda: None) for _ in range(THREADS)]
    run(lives, LIMIT)

    check(account, lives, report)
    assert account.writer.thread._thread is thread, "the writer's thread ended"


@both_modes
def test_exceptions_while_the_thread_is_started(waits, account, report):
    """The next push starts it, if this one didn't."""

    def stop():
        assert account.writer.stop(LIMIT_SECONDS)

    life = TracedLife(account.state, STARTED, prepare=stop)
    run([life], LIMIT)

    check(account, [life], report)


def test_exceptions_thrown_into_greenlets(sqlite, report):
    """As Dramatiq stops them under gevent; they land where a greenlet waits, for a commit here."""
    # In a process of its own, since it patches Python.
    code = f"from tests.faults import greenlets; greenlets.main({GREENLETS})"
    answer = run_script(code, environment(sqlite), LIMIT)
    found = json.loads(answer)
    inside = found["inside"]
    report(
        f"{sum(inside.values()):,} exceptions inside hooks ({numbers(inside)}) and "
        f"{found['elsewhere']:,} between them; {found['pushes']:,} pushes: "
        f"{numbers(found['differences'])}"
    )

    assert set(found["differences"].values()) == {0}
    assert inside["before_ack"]
    assert found["failures"] == 0


def check(account, lives, report, hit=HOOKS):
    """A push that returned has happened once, an interrupted one once or not at all."""
    assert taskstate.flush(LIMIT_SECONDS)
    inside = landed(lives)
    differences = account.differences(lives)
    stats = taskstate.stats()
    functions, bytecodes = places(lives)
    report(
        f"{sum(inside.values()):,} exceptions inside hooks ({numbers(inside)}), at {bytecodes} "
        f"bytecodes of {functions} functions, and {elsewhere(lives):,} between them; "
        f"{sum(len(life.calls) for life in lives):,} pushes: {numbers(differences)}"
    )
    assert set(differences.values()) == {0}
    assert all(inside[hook] for hook in hit), "some hook was never hit"
    assert (stats.failed_flushes, stats.rejected, stats.dropped, stats.pending) == (0, 0, 0, 0)


def numbers(counts):
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
