"""The writer: what its callers wait for, and for how long."""

import logging
import math
import threading

import pytest
from django.db import OperationalError

from taskstate.conf import Config
from taskstate.transitions.status import Status
from taskstate.writer.pacing import BURST
from tests.support.bench import Outage
from tests.support.factories import make_id, make_transition
from tests.support.limits import LIMIT_SECONDS
from tests.support.waiting import wait_until


def test_creating_a_writer_starts_no_thread(bench):
    """It is created before models can be imported."""
    before = threading.active_count()
    bench.make_writer()

    assert threading.active_count() == before


def test_pushes_from_many_threads_are_all_written(threaded):
    """The last transition of each message is committed."""
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
    for transition in threaded.store.committed:
        best[transition.message_id] = max(best.get(transition.message_id, 0), transition.rank)
    assert best == {make_id(n): make_transition(stamp=4).rank for n in range(500)}
    assert threaded.writer.stats().transitions == 2000


def test_a_forked_child_starts_without_pending_tasks(bench):
    """The pending tasks belong to the parent, and the parent's connections stay open."""
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


# Flushing.


def test_flush_waits_for_everything_pushed_before(threaded):
    """From several threads at once, under load."""
    threaded.config = Config(flush_interval=3600, max_batch_size=10, max_pending=10_000)

    def work(worker):
        for step in range(20):
            number = worker * 100 + step
            threaded.push(number)
            assert threaded.writer.flush(LIMIT_SECONDS)
            assert make_id(number) in {
                transition.message_id for transition in threaded.store.committed
            }
        done.append(worker)

    done = []
    workers = [threading.Thread(target=work, args=[number], daemon=True) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(LIMIT_SECONDS)

    assert sorted(done) == [0, 1, 2, 3]


def test_flush_in_an_outage_returns_false_after_its_timeout(threaded):
    """The task stays pending, and no flush request stays open."""
    threaded.store.error = Outage()
    threaded.push(1)

    assert not threaded.writer.flush(0.05)
    assert threaded.writer.stats().pending == 1
    assert not threaded.writer._cycle.requests


def test_flush_during_a_pause_tries_at_once(threaded):
    """A caller that flushes after an outage does not wait for the backoff."""
    threaded.store.error = Outage()
    threaded.push(1)
    assert not threaded.writer.flush(0.05)
    threaded.writer._cycle.backoff._retry_at = threaded.now + 10**6
    threaded.store.error = None

    assert threaded.writer.flush(LIMIT_SECONDS)


def test_flush_with_nothing_pending_starts_no_thread(bench):
    """A process that tracks nothing pays nothing for it."""
    assert bench.writer.flush(0)
    assert bench.registered == []


def test_flush_in_a_receiver_writes_at_once(threaded):
    """It runs in the writer's thread, which can't wait for itself."""
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
    assert [transition.message_id for transition in threaded.store.committed] == [
        make_id(1),
        make_id(2),
    ]


def test_flush_in_a_receivers_transaction_returns_false(bench):
    """Otherwise the rows would be committed with the receiver's own work, or not at all."""
    bench.writer.thread._writing_thread_id = threading.get_ident()
    bench.push(1)
    bench.writer._cycle.step()
    bench.push(2)
    bench.store.in_transaction = True

    assert not bench.writer.flush(LIMIT_SECONDS)
    assert len(bench.store.committed) == 1


def test_flush_without_time_succeeds_if_nothing_is_pending(threaded):
    """The thread is idle."""
    threaded.push(1)
    assert threaded.writer.flush(LIMIT_SECONDS)
    wait_until_idle(threaded.writer)

    assert threaded.writer.flush(0)
    assert threaded.writer.stop(0)


def wait_until_idle(writer):
    """Wait until the thread is idle after its last write; nothing signals that."""
    pause = threading.Event()
    for _ in range(LIMIT_SECONDS * 100):
        if writer.thread.is_idle and writer.thread._thread is not None:
            return
        pause.wait(0.01)
    pytest.fail("the writer did not become idle")


# Stopping.


def test_stop_in_an_outage_ends_in_time_and_logs_what_may_be_lost(threaded, caplog):
    """The record states how many, why, and what to do.  The thread continues to try."""
    threaded.store.error = Outage("no route to host")
    threaded.push(1, 2)

    assert not threaded.writer.stop(0.05)

    (record,) = [r for r in caplog.records if "could not be written within" in r.message]
    assert record.levelno == logging.ERROR
    assert "2 tasks" in record.message
    assert "no route to host" in record.message
    threaded.store.error = None
    assert threaded.writer.flush(LIMIT_SECONDS)


def test_stop_waits_for_the_shutdown_timeout_of_the_settings(threaded):
    """The middleware's argument ``shutdown_timeout`` counts at exit too."""
    threaded.config = Config(shutdown_timeout=0.05)
    threaded.store.error = Outage()
    threaded.push(1)

    assert not threaded.writer.stop()


def test_a_worker_and_its_process_wait_for_one_shutdown_timeout(threaded, caplog):
    """``SHUTDOWN_TIMEOUT`` applies to the process: the second stop does not wait again."""
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


def test_with_a_slow_database_stop_waits_for_one_shutdown_timeout(threaded, caplog):
    """Some tasks are written meanwhile, but the process does not wait again for the rest."""
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


# Where waiting can't help.

FORBIDDEN = RuntimeError('Database access not allowed, use the "django_db" mark')
MISSING = OperationalError("no such table: taskstate_task")


@pytest.mark.parametrize("error", [FORBIDDEN, MISSING], ids=["forbidden", "missing"])
def test_flush_returns_at_once_if_waiting_can_not_help(error, threaded):
    """It tries once, also without a timeout.  The task stays pending, and is written later."""
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
    """Call a function in a thread, and return its value.  Fail if that takes too long."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(function()), daemon=True)
    thread.start()
    thread.join(LIMIT_SECONDS / 10)
    assert answers, "it does not return"
    return answers[0]


def test_no_error_is_logged_if_a_test_forbids_database_access(threaded, caplog):
    """It is logged at the level DEBUG each time."""
    threaded.store.error = FORBIDDEN
    threaded.push(1)
    for _ in range(2):
        assert not in_time(threaded.writer.stop)

    assert caplog.records == []
    threaded.store.error = Outage()
    assert not threaded.writer.flush(0.05)
    assert "can't be written: Outage" in caplog.text


def test_a_missing_table_is_logged_at_exit(threaded, caplog):
    """The record names ``migrate``, since neither a timeout nor a restarted database would help."""
    threaded.store.error = MISSING
    threaded.push(1)
    for _ in range(2):
        assert not in_time(threaded.writer.stop)

    begins, ends = [record.message for record in caplog.records]
    assert "run manage.py migrate taskstate" in begins
    assert "1 tasks could not be written. They are lost if this process ends now" in ends
    assert "run manage.py migrate taskstate" in ends
    assert "SHUTDOWN_TIMEOUT" not in ends


def test_a_thread_that_waits_for_a_commit_waits_for_a_missing_table(threaded):
    """The message must not be acknowledged before that."""
    threaded.store.error = MISSING
    waiter = Waiter(threaded, 1)
    wait_until(lambda: threaded.store.tries)
    assert not in_time(threaded.writer.flush)
    assert waiter.answer is None
    threaded.store.error = None
    threaded.now += 60
    waiter.thread.join(LIMIT_SECONDS)

    assert waiter.answer is True


# Waiting for a commit.


def for_ever():
    return math.inf


class Waiter:
    """A worker thread that waits for the commit of one transition."""

    def __init__(self, bench, number, left=for_ever):
        self.answer = None
        self._transition = make_transition(Status.DONE, message_id=make_id(number))
        self._work = lambda: setattr(
            self, "answer", bench.writer.push_and_wait(self._transition, left)
        )
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def join(self):
        self.thread.join(LIMIT_SECONDS)
        assert not self.thread.is_alive()
        return self.answer


def test_waiters_are_released_after_the_commit_and_before_signals(threaded):
    """A slow receiver does not delay acknowledgments."""
    announced = threading.Event()
    release = threading.Event()

    def announce(change):
        announced.set()
        assert release.wait(LIMIT_SECONDS)

    threaded.writer._cycle.announcer._announce = announce
    waiter = Waiter(threaded, 1)

    assert waiter.join() is True
    assert len(threaded.store.committed) == 1
    assert announced.wait(LIMIT_SECONDS)
    release.set()


def test_waiters_do_not_wait_for_the_flush_interval(threaded):
    """Each wait is a flush outside the rate limit."""
    threaded.config = Config(flush_interval=3600)
    for number in range(2 * BURST):
        assert Waiter(threaded, number).join() is True

    assert len(threaded.store.committed) == 2 * BURST


def test_many_waiters_share_one_commit(threaded):
    """Tasks that are pushed during a flush are written by the next one."""
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


def test_waiters_are_released_if_the_row_is_rejected(threaded):
    """It is never written, so the broker need not keep the message."""
    threaded.store.poison = {make_id(1)}

    assert Waiter(threaded, 1).join() is True
    assert threaded.writer.stats().rejected == 1


def test_waiters_return_when_no_time_is_left(threaded, caplog):
    """One record states what may be lost, and the exit does not wait again."""
    threaded.store.error = Outage("no route to host")
    for number in range(3):
        assert Waiter(threaded, number, left=lambda: 0.0).join() is False

    assert threaded.writer.stop() is False
    lines = [r.message for r in caplog.records if "could not be written within" in r.message]
    assert len(lines) == 1
    assert "FLUSH_BEFORE_ACK" in lines[0]
    assert threaded.writer.stats().pending == 3


def test_a_waiter_writes_in_its_own_thread_if_no_other_can_be_started(bench):
    """The interpreter is shutting down, or out of threads."""
    assert bench.writer.push_and_wait(make_transition(Status.DONE), for_ever) is True
    assert len(bench.store.committed) == 1


def test_a_receiver_that_waits_for_a_commit_writes_in_its_own_thread(threaded):
    """It runs in the writer's thread.  The tests of a site may run a worker there."""
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
