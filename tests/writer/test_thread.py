"""The background thread: how it starts, sleeps and ends, and what a fork does to it."""

import contextlib
import math
import sys
import threading

import pytest

import taskstate.writer.thread as thread_module
from taskstate.conf import Config
from tests.support.bench import Outage
from tests.support.factories import make_id, make_transition
from tests.support.limits import LIMIT_SECONDS
from tests.support.waiting import wait_until

# Starting.


def test_a_push_starts_the_thread_and_wakes_it(threaded):
    """Each push is written without a call of ``flush``."""
    for number in range(3):
        written = threading.Event()
        threaded.writer._cycle.announcer._announce = lambda change, written=written: written.set()
        threaded.push(number)
        assert written.wait(LIMIT_SECONDS)

    assert len(threaded.store.batches) == 3
    assert threaded.registered[0] is threaded.writer


def test_pushes_before_the_thread_runs_start_only_one_thread(threaded, monkeypatch):
    """Otherwise a thousand messages sent in a loop would start a thousand threads."""
    started = []
    start = threading.Thread.start

    def count(thread):
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", count)
    with uninterrupted():
        threaded.push(*range(1000))
    assert threaded.writer.flush(LIMIT_SECONDS)

    assert len(started) == 1
    # How many were dropped depends on how soon the thread began.  The newest one was not.
    assert make_id(999) in {transition.message_id for transition in threaded.store.committed}


@contextlib.contextmanager
def uninterrupted():
    """Keep Python from switching threads, except where a thread waits."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(LIMIT_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def test_the_first_push_does_not_wait_for_the_first_flush(threaded):
    """Python may run a new thread before the thread that started it continues, and the first
    flush imports modules and connects without a pause."""
    returned = []
    flush = []

    def work():
        for _ in range(1_000_000):
            if returned:
                break
        flush.append(bool(returned))

    threaded.store.on_write = work
    with uninterrupted():
        threaded.push(1)
        returned.append(True)
    assert threaded.writer.flush(LIMIT_SECONDS)

    assert flush == [True]


def test_large_transitions_wake_the_writer(bench):
    """The writer is not idle, but in a pause between two tries."""
    bench.config = Config(max_pending_bytes=1024**2)
    bench.writer._cycle.step()
    assert not bench.writer.thread._wake_event.wait(0)
    for number in range(10):
        bench.writer.push(make_transition(message_id=make_id(number), result="x" * 64_000))

    assert bench.writer.thread._wake_event.wait(0)


# Sleeping.


def test_idle_connections_are_closed_after_a_while(threaded, monkeypatch):
    """An idle process should not keep a connection open."""
    monkeypatch.setattr(thread_module, "IDLE_SECONDS", 0.01)
    threaded.push(1)
    assert threaded.writer.flush(LIMIT_SECONDS)

    assert threaded.store.has_closed_idle.wait(LIMIT_SECONDS)
    threaded.push(2)
    assert threaded.writer.flush(LIMIT_SECONDS)


def test_an_error_while_connections_are_closed_does_not_end_the_thread(
    threaded, monkeypatch, caplog
):
    """The error is logged, and the thread continues."""
    was_closed = threading.Event()

    def fail_to_close():
        was_closed.set()
        raise Outage

    monkeypatch.setattr(thread_module, "IDLE_SECONDS", 0.01)
    monkeypatch.setattr(threaded.store, "close_idle_connections", fail_to_close)
    threaded.push(1)

    assert was_closed.wait(LIMIT_SECONDS)
    threaded.push(2)
    assert threaded.writer.flush(LIMIT_SECONDS)
    assert "could not close a database connection" in caplog.text


def test_a_broken_setting_does_not_end_the_thread(bench, caplog):
    """Any error in a step is handled like an outage."""
    bench.writer._cycle._options = None
    bench.writer._buffer.queue.push(make_transition())

    assert bench.writer.thread._step_safely() > 0
    assert bench.writer.stats().pending == 1
    assert "AttributeError" in caplog.text


# Ending.


def test_stop_flushes_ends_the_thread_and_closes_its_connection(threaded):
    """It can be called again without effect."""
    threaded.push(1)
    assert threaded.writer.stop(LIMIT_SECONDS)
    assert threaded.writer.stop(LIMIT_SECONDS)

    assert len(threaded.store.committed) == 1
    assert threaded.store.closed == 1
    assert threaded.writer.thread._thread is None


def test_a_push_after_stop_starts_a_new_thread(threaded):
    """A worker in a web process may be stopped while the site continues."""
    for number in range(3):
        threaded.push(number)
        assert threaded.writer.stop(LIMIT_SECONDS)

    assert len(threaded.store.committed) == 3


def test_a_push_while_the_thread_ends_is_written(threaded):
    """The push relied on the thread that ends, so a new thread starts by itself."""
    written = threading.Event()
    threaded.push(1)
    assert threaded.writer.flush(LIMIT_SECONDS)
    close = threaded.store.close

    def push_and_close():
        threaded.writer._cycle.announcer._announce = lambda change: written.set()
        threaded.push(2)
        threaded.store.close = close

    threaded.store.close = push_and_close
    assert threaded.writer.stop(LIMIT_SECONDS)

    assert written.wait(LIMIT_SECONDS)


def test_pushes_and_stops_at_the_same_time_lose_nothing(threaded):
    """A push that relies on a thread that is ending is written too."""
    total = 300
    for number in range(total):
        threaded.push(number)
        stopper = threading.Thread(target=threaded.writer.stop, args=[LIMIT_SECONDS])
        stopper.start()
        threaded.push(total + number)
        stopper.join(LIMIT_SECONDS)
        assert not stopper.is_alive()
    assert threaded.writer.flush(LIMIT_SECONDS)

    assert {transition.message_id for transition in threaded.store.committed} == {
        make_id(n) for n in range(2 * total)
    }


def test_a_thread_without_work_ends_at_once(threaded):
    """Its work is already done, and nothing would end it later."""
    threaded.push(1)
    assert threaded.writer.stop(LIMIT_SECONDS)
    late = threading.Thread(target=threaded.writer.thread._run)
    late.start()
    late.join(LIMIT_SECONDS)

    assert not late.is_alive()
    assert threaded.writer.thread._thread is None


# Without a thread.


def test_the_caller_writes_if_no_thread_can_be_started(bench, monkeypatch):
    """At interpreter shutdown no thread can be started, but the last flush still happens."""

    def fail(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    bench.threads = True
    bench.push(1)

    assert bench.writer.stop(1)
    assert len(bench.store.committed) == 1


def test_a_push_while_a_caller_writes_is_written(bench):
    """The thread that this push started had to end, because the caller was writing."""
    bench.push(1)

    def push_another():
        bench.store.on_write = lambda: None
        bench.threads = True
        others = {*threading.enumerate()}
        bench.push(2)
        for thread in {*threading.enumerate()} - others:
            thread.join(LIMIT_SECONDS)

    bench.store.on_write = push_another
    bench.writer.thread._write_in_this_thread(LIMIT_SECONDS)

    wait_until(lambda: len(bench.store.committed) == 2)
    assert bench.writer.stop(LIMIT_SECONDS)


# Forks.


@pytest.fixture
def slow_step(threaded):
    """A writer's thread in the middle of a step, until the event is set that is returned."""
    inside, leave = threading.Event(), threading.Event()

    def write():
        inside.set()
        assert leave.wait(LIMIT_SECONDS)

    threaded.store.on_write = write
    threaded.push(1)
    assert inside.wait(LIMIT_SECONDS)
    yield leave
    leave.set()


def test_a_fork_waits_for_the_end_of_a_step(threaded, slow_step):
    """A child that is forked while the thread is in a database driver would inherit its locks."""
    answers = []

    def fork():
        answers.append(threaded.writer.before_fork(LIMIT_SECONDS))
        threaded.writer.after_fork_in_parent()

    forking = threading.Thread(target=fork)
    forking.start()
    forking.join(thread_module.FORK_CHECK_SECONDS * 3)
    assert answers == []
    slow_step.set()
    forking.join(LIMIT_SECONDS)

    assert answers == [True]
    assert threaded.writer.flush(LIMIT_SECONDS)


def test_a_fork_does_not_wait_for_a_step_that_hangs(threaded, slow_step):
    """What counts is how long the step has lasted, so it delays several forks only once."""
    thread = threaded.writer.thread
    thread._clock = lambda: thread._step_started_at + 10

    for _ in range(2):
        assert not threaded.writer.before_fork(10)
        threaded.writer.after_fork_in_parent()

    slow_step.set()
    assert threaded.writer.flush(LIMIT_SECONDS)


def test_a_fork_waits_no_longer_even_if_no_time_passes(threaded, slow_step):
    """A clock that stands still does not make a fork wait forever."""
    threaded.writer.thread._clock = lambda: 5.0

    assert not threaded.writer.before_fork(thread_module.FORK_CHECK_SECONDS * 2)
    threaded.writer.after_fork_in_parent()
    slow_step.set()
    assert threaded.writer.flush(LIMIT_SECONDS)


def test_a_fork_waits_for_another_one(threaded):
    """While no step is under way, none can seem to hang."""
    thread = threaded.writer.thread
    answers = []

    def fork():
        answers.append(threaded.writer.before_fork(LIMIT_SECONDS))
        threaded.writer.after_fork_in_parent()

    threaded.push(1)
    assert threaded.writer.flush(LIMIT_SECONDS)
    assert threaded.writer.before_fork(LIMIT_SECONDS)
    thread._clock = lambda: math.inf
    other = threading.Thread(target=fork)
    other.start()
    other.join(thread_module.FORK_CHECK_SECONDS * 3)
    assert answers == []
    threaded.writer.after_fork_in_parent()
    other.join(LIMIT_SECONDS)

    assert answers == [True]


def test_no_step_begins_while_a_fork_waits(threaded, slow_step):
    """A busy writer can't begin one step after the other in front of it."""
    turnstile = threaded.writer.thread._turnstile

    def fork():
        threaded.writer.before_fork(LIMIT_SECONDS)
        threaded.writer.after_fork_in_parent()

    forking = threading.Thread(target=fork)
    forking.start()
    wait_until(turnstile.locked)
    slow_step.set()
    forking.join(LIMIT_SECONDS)

    assert not turnstile.locked()


def test_a_step_passes_the_turnstile(threaded):
    """A fork that waits holds it."""
    with threaded.writer.thread._turnstile:
        threaded.push(1)
        assert not threaded.writer.flush(0.05)
    assert threaded.writer.flush(LIMIT_SECONDS)


def test_no_step_begins_during_a_fork(threaded):
    assert threaded.writer.before_fork(LIMIT_SECONDS)
    threaded.push(2)
    assert not threaded.writer.flush(0.05)
    threaded.writer.after_fork_in_parent()
    assert threaded.writer.flush(LIMIT_SECONDS)


def test_a_receiver_may_fork(threaded):
    """The thread that forks can't wait for itself."""

    def fork(change):
        threaded.writer.before_fork(LIMIT_SECONDS)
        threaded.writer.after_fork_in_parent()

    threaded.writer._cycle.announcer._announce = fork
    for number in range(3):
        threaded.push(number)
        assert threaded.writer.flush(LIMIT_SECONDS)
    # The steps of those forks are over, so another thread may fork too.
    assert threaded.writer.thread._step_lock.acquire(timeout=LIMIT_SECONDS)
    threaded.writer.thread._step_lock.release()
