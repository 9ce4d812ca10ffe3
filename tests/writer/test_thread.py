"""The background thread: how it starts, sleeps and ends, and what a fork does to it."""

import contextlib
import sys
import threading

import taskstate.writer.thread as writer_module
from taskstate.conf import Config
from tests.support.bench import Outage
from tests.support.factories import make_id, make_transition
from tests.support.limits import LIMIT_SECONDS
from tests.support.waiting import wait_until

# Starting.


def test_a_push_starts_the_thread_and_wakes_it(threaded):
    """No flush is asked for; each push is written by itself."""
    for number in range(3):
        written = threading.Event()
        threaded.writer._cycle.announcer._announce = lambda change, written=written: written.set()
        threaded.push(number)
        assert written.wait(LIMIT_SECONDS)

    assert len(threaded.store.batches) == 3
    assert threaded.watched[0] is threaded.writer


def test_pushes_before_the_thread_is_there_start_no_other_one(threaded, monkeypatch):
    """Sent in a loop, a thousand messages would start a thousand threads."""
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
    # How many were dropped before it began depends on how soon it did; the newest one wasn't.
    assert make_id(999) in {fact.message_id for fact in threaded.store.committed}


@contextlib.contextmanager
def uninterrupted():
    """No thread is interrupted meanwhile: whoever runs gives way, or runs on."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(LIMIT_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def test_the_first_push_does_not_wait_for_the_first_flush(threaded):
    """Python lets a new thread run before whoever starts it goes on, and the first flush imports
    and connects without a pause."""
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
    """Though it is not idle, but takes a nap between two tries."""
    bench.config = Config(max_pending_bytes=1024**2)
    bench.writer._cycle.step()
    assert not bench.writer.thread._wake_event.wait(0)
    for number in range(10):
        bench.writer.push(make_transition(message_id=make_id(number), result="x" * 64_000))

    assert bench.writer.thread._wake_event.wait(0)


# Sleeping.


def test_after_a_quiet_while_it_rests(threaded, monkeypatch):
    """Its connection is one more than an idle process should have."""
    monkeypatch.setattr(writer_module, "IDLE_SECONDS", 0.01)
    threaded.push(1)
    assert threaded.writer.flush(LIMIT_SECONDS)

    assert threaded.store.rested.wait(LIMIT_SECONDS)
    threaded.push(2)
    assert threaded.writer.flush(LIMIT_SECONDS)


def test_a_store_that_can_not_rest_ends_nothing(threaded, monkeypatch, caplog):
    """It is logged, and the thread goes on."""
    rested = threading.Event()

    def rest():
        rested.set()
        raise Outage

    monkeypatch.setattr(writer_module, "IDLE_SECONDS", 0.01)
    monkeypatch.setattr(threaded.store, "close_idle_connections", rest)
    threaded.push(1)

    assert rested.wait(LIMIT_SECONDS)
    threaded.push(2)
    assert threaded.writer.flush(LIMIT_SECONDS)
    assert "could not close a database connection" in caplog.text


def test_a_broken_setting_does_not_end_the_thread(bench, caplog):
    """Whatever a step raises is an outage to the loop around it."""
    bench.writer._cycle._options = None
    bench.writer._buffer.push(make_transition())

    assert bench.writer.thread._step_safely() > 0
    assert bench.writer.stats().pending == 1
    assert "AttributeError" in caplog.text


# Ending.


def test_stop_flushes_ends_the_thread_and_closes_its_connection(threaded):
    """Idempotent, and harmless where nothing ever started."""
    threaded.push(1)
    assert threaded.writer.stop(LIMIT_SECONDS)
    assert threaded.writer.stop(LIMIT_SECONDS)

    assert len(threaded.store.committed) == 1
    assert threaded.store.closed == 1
    assert threaded.writer.thread._thread is None


def test_a_push_after_stop_starts_a_new_thread(threaded):
    """A worker in a web process may be stopped, and the site goes on."""
    for number in range(3):
        threaded.push(number)
        assert threaded.writer.stop(LIMIT_SECONDS)

    assert len(threaded.store.committed) == 3


def test_a_push_to_a_thread_that_is_just_ending_is_written(threaded):
    """It saw the thread alive and relied on it: a new one takes over, without being asked."""
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
    """A push that relies on a thread which is just ending is written all the same."""
    total = 300
    for number in range(total):
        threaded.push(number)
        stopper = threading.Thread(target=threaded.writer.stop, args=[LIMIT_SECONDS])
        stopper.start()
        threaded.push(total + number)
        stopper.join(LIMIT_SECONDS)
        assert not stopper.is_alive()
    assert threaded.writer.flush(LIMIT_SECONDS)

    assert {fact.message_id for fact in threaded.store.committed} == {
        make_id(n) for n in range(2 * total)
    }


def test_a_thread_that_comes_too_late_ends_at_once(threaded):
    """What it was started for is written: nobody would ask it to end."""
    threaded.push(1)
    assert threaded.writer.stop(LIMIT_SECONDS)
    late = threading.Thread(target=threaded.writer.thread._run)
    late.start()
    late.join(LIMIT_SECONDS)

    assert not late.is_alive()
    assert threaded.writer.thread._thread is None


# Without a thread.


def test_without_a_thread_the_caller_writes(bench, monkeypatch):
    """At interpreter shutdown no thread can be started; the last flush happens all the same."""

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    bench.threads = True
    bench.push(1)

    assert bench.writer.stop(1)
    assert len(bench.store.committed) == 1


def test_what_is_pushed_while_a_caller_writes_is_not_left_behind(bench):
    """The thread that this push started had to end: the caller was writing."""
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


def test_a_fork_waits_for_the_end_of_a_turn(threaded):
    """A child that is born while the thread is inside a database driver inherits its locks."""
    inside, leave = threading.Event(), threading.Event()

    def write():
        inside.set()
        assert leave.wait(LIMIT_SECONDS)

    threaded.store.on_write = write
    threaded.push(1)
    assert inside.wait(LIMIT_SECONDS)

    threaded.writer.before_fork(0.01)  # In vain: the turn takes longer.
    threaded.writer.after_fork_in_parent()
    leave.set()
    assert threaded.writer.flush(LIMIT_SECONDS)
    threaded.writer.before_fork(LIMIT_SECONDS)
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
    # The turns of those forks are over: another thread may fork, too.
    assert threaded.writer.thread._step_lock.acquire(timeout=LIMIT_SECONDS)
    threaded.writer.thread._step_lock.release()
