"""The writer, one step at a time: its clock and its store are handed in."""

import contextlib
import inspect
import logging
import math
import sys
import threading

import pytest
from django.db import OperationalError

import taskstate.writer.thread as writer_module
from taskstate.conf import Config
from taskstate.transitions.status import Status
from taskstate.utils.sync import Deadline, Latch
from taskstate.writer.pacing import BURST
from tests.support.bench import Outage
from tests.support.factories import make_id, make_transition
from tests.support.limits import LIMIT_SECONDS

# When to flush.


def test_constructing_a_writer_is_inert(bench):
    """No thread, no store: it is made before models can be imported."""
    before = threading.active_count()
    bench.make_writer()

    assert threading.active_count() == before


def test_a_quiet_writer_flushes_at_once(bench):
    """A lone transition doesn't wait for the interval."""
    bench.push(1)

    assert bench.writer._cycle.step() is None
    assert len(bench.store.committed) == 1


def test_an_idle_step_does_nothing(bench):
    """Nothing pending, nothing to wait for."""
    assert bench.writer._cycle.step() is None
    assert bench.store.tries == 0


def test_a_busy_writer_flushes_once_per_interval(bench):
    """After the burst, what comes within an interval goes in one flush."""
    bench.spend_burst()
    bench.push(1, 2)
    assert bench.writer._cycle.step() == pytest.approx(1.0)
    bench.now += 0.5
    bench.push(3)
    assert bench.writer._cycle.step() == pytest.approx(0.5)
    assert bench.store.batches == []

    bench.now += 0.5
    assert bench.writer._cycle.step() is None

    assert len(bench.store.batches) == 1
    assert len(bench.store.committed) == 3


def test_a_full_batch_does_not_wait_for_the_interval(bench):
    """Only full batches go; the rest waits for its turn."""
    bench.spend_burst()
    bench.push(*range(25))

    assert bench.writer._cycle.step() == pytest.approx(1.0)

    assert [len(batch) for batch in bench.store.batches] == [10, 10]
    assert bench.writer.stats().pending == 5


def test_one_flush_writes_all_that_is_pending_in_batches(bench):
    """A batch is bounded; a flush isn't."""
    bench.push(*range(25))
    bench.writer._cycle.step()

    assert [len(batch) for batch in bench.store.batches] == [10, 10, 5]


def test_settings_are_read_live(bench):
    """A changed interval counts from the next step on."""
    bench.spend_burst()
    bench.push(1)
    assert bench.writer._cycle.step() is not None

    bench.config = Config(flush_interval=0)

    assert bench.writer._cycle.step() is None
    assert len(bench.store.committed) == 1


# The thread.


def test_a_push_starts_the_thread_and_wakes_it(threaded):
    """No flush is asked for; each push is written by itself."""
    for number in range(3):
        written = threading.Event()
        threaded.writer._cycle.announcer._announce = lambda change, written=written: written.set()
        threaded.push(number)
        assert written.wait(LIMIT_SECONDS)

    assert len(threaded.store.batches) == 3
    assert threaded.watched[0] is threaded.writer


def test_flush_waits_for_everything_pushed_before(threaded):
    """From several threads at once, under load."""
    threaded.config = Config(flush_interval=3600, max_batch_size=10, max_pending=10_000)

    def work(worker):
        for step in range(20):
            number = worker * 100 + step
            threaded.push(number)
            assert threaded.writer.flush(LIMIT_SECONDS)
            assert make_id(number) in {fact.message_id for fact in threaded.store.committed}
        done.append(worker)

    done = []
    workers = [threading.Thread(target=work, args=[number], daemon=True) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(LIMIT_SECONDS)

    assert sorted(done) == [0, 1, 2, 3]


def test_flush_in_an_outage_gives_up_in_time(threaded):
    """It says so, and what is pending stays; no request is left behind."""
    threaded.store.error = Outage()
    threaded.push(1)

    assert not threaded.writer.flush(0.05)
    assert threaded.writer.stats().pending == 1
    assert not threaded.writer._cycle.requests


def test_flush_tries_at_once_during_a_pause(threaded):
    """Who asks for a flush after the outage doesn't wait for the backoff."""
    threaded.store.error = Outage()
    threaded.push(1)
    assert not threaded.writer.flush(0.05)
    threaded.writer._cycle.backoff._retry_at = threaded.now + 10**6
    threaded.store.error = None

    assert threaded.writer.flush(LIMIT_SECONDS)


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


def test_flush_with_nothing_pending_starts_nothing(bench):
    """It is free in a process that tracks nothing."""
    assert bench.writer.flush(0)
    assert bench.watched == []


def test_flush_from_a_receiver_writes_right_there(threaded):
    """It runs in the writer's own thread, and can't wait for itself."""
    results = []

    def receive(change):
        if not results:
            results.append(None)
            threaded.push(2)
            results[0] = threaded.writer.flush(LIMIT_SECONDS)

    threaded.writer._cycle.announcer._announce = receive
    threaded.push(1)
    assert threaded.writer.flush(LIMIT_SECONDS)

    assert results == [True]
    assert [fact.message_id for fact in threaded.store.committed] == [make_id(1), make_id(2)]


def test_receivers_that_always_flush_neither_nest_nor_spin(bench):
    """Thousands of batches pending, after an outage say: each is written and told of once."""
    bench.config = Config(max_batch_size=1)
    depths = []

    def receive(change):
        depths.append(len(inspect.stack(0)))
        assert bench.writer.flush(0)

    bench.writer.thread._writing_thread_id = threading.get_ident()
    bench.writer._cycle.announcer._announce = receive
    bench.push(*range(300))
    assert bench.writer._cycle.step() is None

    assert len(depths) == len(bench.store.batches) == 300
    assert len(set(depths)) == 1
    assert all(bench.store.batches)


def test_a_receiver_in_a_transaction_can_not_flush(bench):
    """What it wrote would be committed with the receiver's own work, or not at all."""
    bench.writer.thread._writing_thread_id = threading.get_ident()
    bench.push(1)
    bench.writer._cycle.step()
    bench.push(2)
    bench.store.in_transaction = True

    assert not bench.writer.flush(LIMIT_SECONDS)
    assert len(bench.store.committed) == 1


def test_flush_with_no_time_and_nothing_pending(threaded):
    """An idle thread has nothing to be waited for."""
    threaded.push(1)
    assert threaded.writer.flush(LIMIT_SECONDS)
    wait_until_idle(threaded.writer)

    assert threaded.writer.flush(0)
    assert threaded.writer.stop(0)


def wait_until_idle(writer):
    """Let the thread get from its last write to its wait: nothing signals that."""
    pause = threading.Event()
    for _ in range(LIMIT_SECONDS * 100):
        if writer.thread.is_idle and writer.thread._thread is not None:
            return
        pause.wait(0.01)
    pytest.fail("the writer did not come to rest")


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


def test_a_stop_in_an_outage_is_bounded_and_says_what_is_lost(threaded, caplog):
    """The operator learns how many, why, and the cure; the thread goes on trying."""
    threaded.store.error = Outage("no route to host")
    threaded.push(1, 2)

    assert not threaded.writer.stop(0.05)

    (record,) = [r for r in caplog.records if "could not be written within" in r.message]
    assert record.levelno == logging.ERROR
    assert "2 tasks" in record.message
    assert "no route to host" in record.message
    threaded.store.error = None
    assert threaded.writer.flush(LIMIT_SECONDS)


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


def test_many_pushers_lose_nothing(threaded):
    """Every message's last fact arrives, whoever pushed it when."""
    threaded.config = Config(flush_interval=0, max_batch_size=7, max_pending=100_000)

    def work(worker):
        for number in range(500):
            threaded.push(number, stamp=worker + 1)

    workers = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(LIMIT_SECONDS)
    assert threaded.writer.flush(LIMIT_SECONDS)

    best = {}
    for fact in threaded.store.committed:
        best[fact.message_id] = max(best.get(fact.message_id, 0), fact.rank)
    assert best == {make_id(n): make_transition(stamp=4).rank for n in range(500)}
    assert threaded.writer.stats().transitions == 2000


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


def test_a_forked_child_begins_anew(bench):
    """What was pending is the parent's; its connections are kept from being closed."""
    bench.push(1)
    bench.writer._cycle.step()
    bench.push(2)
    bench.writer.thread._writer_lock.acquire()

    assert bench.writer.after_fork_in_child() is bench.store

    assert bench.writer.stats().pending == 0
    assert bench.writer.stats().transitions == 0
    assert bench.writer.flush(0)
    bench.push(3)
    bench.writer._cycle.step()
    assert bench.store.committed[-1].message_id == make_id(3)
    assert len(bench.store.committed) == 2


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


def test_a_failed_flush_is_tried_again_after_a_pause(bench):
    """No busy loop during an outage: the pause doubles."""
    bench.store.error = Outage()
    bench.push(1)
    assert bench.writer._cycle.step() == pytest.approx(0.1, abs=0.01)
    assert bench.writer._cycle.step() == pytest.approx(0.1, abs=0.01)
    assert bench.store.tries == 1

    bench.now += 0.1
    # The rate limit is still in force, so the next pause is no shorter.
    assert bench.writer._cycle.step() >= 0.19
    assert bench.store.tries == 2


def test_stop_takes_its_limit_from_the_settings(threaded):
    """A middleware's own ``shutdown_timeout`` counts at exit, too."""
    threaded.config = Config(shutdown_timeout=0.05)
    threaded.store.error = Outage()
    threaded.push(1)

    assert not threaded.writer.stop()


def test_a_worker_and_its_process_wait_once_together(threaded, caplog):
    """``SHUTDOWN_TIMEOUT`` is for the process: the second stop doesn't wait it all again."""
    threaded.config = Config(shutdown_timeout=0.05)
    threaded.store.error = Outage()
    threaded.push(1)
    assert not threaded.writer.stop()
    threaded.config = Config(shutdown_timeout=LIMIT_SECONDS * 100)

    assert not threaded.writer.stop()

    assert caplog.text.count("could not be written within") == 1
    threaded.store.error = None
    assert threaded.writer.flush(LIMIT_SECONDS)
    assert not threaded.writer._shutdown_timed_out


def test_a_broken_setting_does_not_end_the_thread(bench, caplog):
    """Whatever a step raises is an outage to the loop around it."""
    bench.writer._cycle._options = None
    bench.writer._buffer.push(make_transition())

    assert bench.writer.thread._step_safely() > 0
    assert bench.writer.stats().pending == 1
    assert "AttributeError" in caplog.text


# Where waiting can't help.

FORBIDDEN = RuntimeError('Database access not allowed, use the "django_db" mark')
MISSING = OperationalError("no such table: taskstate_task")


@pytest.mark.parametrize("error", [FORBIDDEN, MISSING], ids=["forbidden", "missing"])
def test_a_flush_that_waits_in_vain_returns_at_once(error, threaded):
    """After one try, without a limit as well; what is pending stays, and is written later."""
    threaded.store.error = error
    threaded.push(1)

    assert not in_time(threaded.writer.flush)
    assert not in_time(threaded.writer.flush)
    assert not in_time(threaded.writer.stop)
    assert threaded.writer.stats().pending == 1
    threaded.store.error = None
    assert threaded.writer.flush(LIMIT_SECONDS)
    assert len(threaded.store.committed) == 1


def in_time(function):
    """Call a function in a thread; return what it returned, if that was in time."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(function()), daemon=True)
    thread.start()
    thread.join(LIMIT_SECONDS / 10)
    assert answers, "it waits"
    return answers[0]


def test_a_test_that_forbids_access_is_no_error(threaded, caplog):
    """Nothing is wrong: it is for debugging, each time."""
    threaded.store.error = FORBIDDEN
    threaded.push(1)
    for _ in range(2):
        assert not in_time(threaded.writer.stop)

    assert caplog.records == []
    threaded.store.error = Outage()
    assert not threaded.writer.flush(0.05)
    assert "can't be written: Outage" in caplog.text


def test_a_forgotten_migrate_is_named_at_exit(threaded, caplog):
    """No database that answers, and no more time, would be a cure."""
    threaded.store.error = MISSING
    threaded.push(1)
    for _ in range(2):
        assert not in_time(threaded.writer.stop)

    begins, ends = [record.message for record in caplog.records]
    assert "run manage.py migrate taskstate" in begins
    assert "1 tasks could not be written. They are lost if this process ends now" in ends
    assert "run manage.py migrate taskstate" in ends
    assert "SHUTDOWN_TIMEOUT" not in ends


def test_who_waits_for_a_commit_goes_on_waiting_for_the_table(threaded):
    """The message must not be acknowledged before."""
    threaded.store.error = MISSING
    waiter = Waiter(threaded, 1)
    wait_until(lambda: threaded.store.tries)
    assert not in_time(threaded.writer.flush)
    assert waiter.answer is None
    threaded.store.error = None
    threaded.now += 60
    waiter.thread.join(LIMIT_SECONDS)

    assert waiter.answer is True


# The first push of a process.


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


# Waiting for a commit.


def for_ever():
    return math.inf


class Waiter:
    """A worker thread that waits for the commit of one fact."""

    def __init__(self, bench, number, left=for_ever):
        self.answer = None
        self._fact = make_transition(Status.DONE, message_id=make_id(number))
        self._work = lambda: setattr(self, "answer", bench.writer.push_and_wait(self._fact, left))
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def join(self):
        self.thread.join(LIMIT_SECONDS)
        assert not self.thread.is_alive()
        return self.answer


def test_who_waits_is_let_go_by_the_commit_and_before_signals(threaded):
    """A slow receiver holds up nobody's acknowledgement."""
    told = threading.Event()
    release = threading.Event()

    def announce(change):
        told.set()
        assert release.wait(LIMIT_SECONDS)

    threaded.writer._cycle.announcer._announce = announce
    waiter = Waiter(threaded, 1)

    assert waiter.join() is True
    assert len(threaded.store.committed) == 1
    assert told.wait(LIMIT_SECONDS)
    release.set()


def test_who_waits_does_not_wait_for_the_interval(threaded):
    """However often: each wait is a flush outside the rate limit."""
    threaded.config = Config(flush_interval=3600)
    for number in range(2 * BURST):
        assert Waiter(threaded, number).join() is True

    assert len(threaded.store.committed) == 2 * BURST


def test_many_who_wait_share_one_commit(threaded):
    """What comes while a flush is under way goes with the next one."""
    is_writing, go_on = threading.Event(), threading.Event()

    def hold():
        is_writing.set()
        assert go_on.wait(LIMIT_SECONDS)

    threaded.store.on_write = hold
    first = Waiter(threaded, 0)
    assert is_writing.wait(LIMIT_SECONDS)
    others = [Waiter(threaded, number) for number in range(1, 9)]
    wait_until(lambda: len(threaded.writer._buffer) == 8)
    go_on.set()

    assert all(waiter.join() for waiter in [first, *others])
    assert [len(batch) for batch in threaded.store.batches] == [1, 8]


def test_who_waits_is_let_go_if_the_row_is_refused(threaded):
    """It will never be written: the broker need not keep the message."""
    threaded.store.poison = {make_id(1)}

    assert Waiter(threaded, 1).join() is True
    assert threaded.writer.stats().rejected == 1


def test_in_an_outage_who_waits_is_not_let_go(bench, caplog):
    """Not by a failure, and without a try of its own: the backoff has the next one."""
    bench.store.error = Outage()
    waiters = [Latch(), Latch()]
    for number, latch in enumerate(waiters):
        bench.writer._buffer.push_awaited(make_transition(message_id=make_id(number)), latch)
        assert bench.writer._cycle.step() == pytest.approx(0.1)
    assert bench.store.tries == 1
    assert not any(latch.wait(0) for latch in waiters)

    bench.store.error = None
    bench.now += 0.1
    bench.writer._cycle.step()

    assert all(latch.wait(0) for latch in waiters)


def test_who_waits_gives_up_when_no_time_is_left(threaded, caplog):
    """Once for all who wait: one line says what that means, and the exit doesn't wait again."""
    threaded.store.error = Outage("no route to host")
    for number in range(3):
        assert Waiter(threaded, number, left=lambda: 0.0).join() is False

    assert threaded.writer.stop() is False
    lines = [r.message for r in caplog.records if "could not be written within" in r.message]
    assert len(lines) == 1
    assert "FLUSH_BEFORE_ACK" in lines[0]
    assert threaded.writer.stats().pending == 3


def test_who_waits_writes_by_himself_if_no_thread_can_be_started(bench):
    """The interpreter is shutting down, or out of threads."""
    assert bench.writer.push_and_wait(make_transition(Status.DONE), for_ever) is True
    assert len(bench.store.committed) == 1


def test_a_receiver_that_waits_writes_by_itself(threaded):
    """It is in the writer's own thread: a site's tests may run a worker there."""
    answers = []

    def announce(change):
        if not answers:
            answers.append(None)
            done = make_transition(Status.DONE, message_id=make_id(2))
            answers[0] = threaded.writer.push_and_wait(done, for_ever)

    threaded.writer._cycle.announcer._announce = announce
    threaded.push(1)

    assert threaded.writer.flush(LIMIT_SECONDS)
    assert answers == [True]
    assert len(threaded.store.committed) == 2


def wait_until(condition):
    deadline = Deadline(LIMIT_SECONDS)
    pause = threading.Event()
    while not condition():
        assert deadline.left() > 0
        pause.wait(0.001)


def test_large_transitions_wake_the_writer(bench):
    """Though it is not idle, but takes a nap between two tries."""
    bench.config = Config(max_pending_bytes=1024**2)
    bench.writer._cycle.step()
    assert not bench.writer.thread._wake_event.wait(0)
    for number in range(10):
        bench.writer.push(make_transition(message_id=make_id(number), result="x" * 64_000))

    assert bench.writer.thread._wake_event.wait(0)


def test_a_thread_that_comes_too_late_ends_at_once(threaded):
    """What it was started for is written: nobody would ask it to end."""
    threaded.push(1)
    assert threaded.writer.stop(LIMIT_SECONDS)
    late = threading.Thread(target=threaded.writer.thread._run)
    late.start()
    late.join(LIMIT_SECONDS)

    assert not late.is_alive()
    assert threaded.writer.thread._thread is None


def test_a_slow_database_takes_the_shutdown_timeout_once(threaded, caplog):
    """Though some of it is written meanwhile: the process does not wait again for the rest."""
    threaded.config = Config(max_batch_size=1, shutdown_timeout=0.2)
    pause = threading.Event()
    threaded.store.on_write = lambda: pause.wait(0.05)
    threaded.push(*range(100))
    assert not threaded.writer.stop()
    assert threaded.store.batches

    limits = []
    flush, threaded.writer.flush = threaded.writer.flush, limits.append
    assert not threaded.writer.stop()
    threaded.writer.flush = flush
    pause.set()

    assert limits == [0]
    assert caplog.text.count("could not be written within") == 1
