"""One step at a time: when a flush is due, and what follows a failure."""

import dataclasses

import pytest

from taskstate.conf import Config
from taskstate.transitions.status import Status
from taskstate.utils.sync import Latch
from taskstate.writer.pacing import BURST
from tests.support.bench import Outage, fail_from_second_on
from tests.support.factories import make_id, make_transition

# When to flush.


def test_an_idle_writer_flushes_at_once(bench):
    """A single transition does not wait for the interval."""
    bench.push(1)

    assert bench.writer._cycle.step() is None
    assert len(bench.store.committed) == 1


def test_a_step_with_nothing_pending_does_nothing(bench):
    """There is no next step to wait for."""
    assert bench.writer._cycle.step() is None
    assert bench.store.tries == 0


def test_a_busy_writer_flushes_once_per_interval(bench):
    """After the burst, everything pushed within an interval is written by one flush."""
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
    """Only full batches are written; the rest stays pending until the interval is over."""
    bench.spend_burst()
    bench.push(*range(25))

    assert bench.writer._cycle.step() == pytest.approx(1.0)

    assert [len(batch) for batch in bench.store.batches] == [10, 10]
    assert bench.writer.stats().pending == 5


def test_nothing_is_dropped_while_a_batch_fills(bench):
    """A batch may be larger than what may wait."""
    bench.config = dataclasses.replace(bench.config, max_pending=10, max_batch_size=10)
    bench.spend_burst()
    woken = []
    bench.writer.queue.wake_writer = lambda: woken.append(True)
    for number in range(100):
        bench.push(number)
        if woken or number % 4 == 0:  # It also takes a step when its pause is over.
            woken.clear()
            bench.writer._cycle.step()

    assert bench.writer.stats().dropped == 0
    assert max(map(len, bench.store.batches)) <= 10


def test_one_flush_writes_all_that_is_pending_in_batches(bench):
    """A batch is limited; a flush is not."""
    bench.push(*range(25))
    bench.writer._cycle.step()

    assert [len(batch) for batch in bench.store.batches] == [10, 10, 5]


def test_settings_are_read_live(bench):
    """A changed interval applies from the next step on."""
    bench.spend_burst()
    bench.push(1)
    assert bench.writer._cycle.step() is not None

    bench.config = Config(flush_interval=0)

    assert bench.writer._cycle.step() is None
    assert len(bench.store.committed) == 1


# When a flush fails.


def test_an_outage_loses_nothing(bench, caplog):
    """The batch is kept, newer transitions win, and the start and the end are logged."""
    bench.store.error = Outage("connection refused")
    bench.push(*range(25))
    for _ in range(5):
        assert bench.writer._cycle.step() > 0
        bench.now += 60
    bench.push(3, status=Status.DONE)
    bench.push(26)
    assert bench.store.tries == 5
    assert bench.store.committed == []

    bench.store.error = None
    assert bench.writer._cycle.step() is None

    assert [transition.message_id for transition in bench.store.committed] == [
        *(make_id(n) for n in range(25)),
        make_id(26),
    ]
    assert bench.store.committed[3].status == Status.DONE
    stats = bench.writer.stats()
    assert (stats.failed_flushes, stats.dropped, stats.pending) == (5, 0, 0)
    assert stats.last_error == "Outage: connection refused"
    messages = [record.message for record in caplog.records]
    assert len(messages) == 2
    assert "Outage: connection refused" in messages[0]
    assert "written again" in messages[1]


def test_a_failed_flush_is_tried_again_after_a_pause(bench):
    """The pause doubles, so there is no busy loop during an outage."""
    bench.store.error = Outage()
    bench.push(1)
    assert bench.writer._cycle.step() == pytest.approx(0.1, abs=0.01)
    assert bench.writer._cycle.step() == pytest.approx(0.1, abs=0.01)
    assert bench.store.tries == 1

    bench.now += 0.1
    # The rate limit is still in force, so the next pause is no shorter.
    assert bench.writer._cycle.step() >= 0.19
    assert bench.store.tries == 2


def test_the_batches_after_a_failed_one_are_kept(bench):
    """The failure of one batch does not lose the batches after it."""
    bench.push(*range(25))
    fail_from_second_on(bench.store)

    bench.writer._cycle.step()

    assert len(bench.store.committed) == 10
    assert bench.writer.stats().pending == 15
    bench.store.error = None
    bench.store.on_write = lambda: None
    bench.now += 60
    bench.writer._cycle.step()
    assert {transition.message_id for transition in bench.store.committed} == {
        make_id(n) for n in range(25)
    }


def test_waiters_are_not_released_in_an_outage(bench, caplog):
    """A failure does not release them.  They cause no extra try before the backoff has ended."""
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


def test_a_batch_is_kept_after_a_system_exit(bench):
    """A driver may raise it: it is raised again, and the batch stays pending."""
    bench.store.error = SystemExit()
    bench.push(1)
    with pytest.raises(SystemExit):
        bench.writer._cycle.step()

    assert bench.writer.stats().pending == 1
    assert bench.writer._cycle.flusher.in_flight == 0


# Statistics.


def test_statistics_count_transitions_flushes_and_rows(bench):
    """Each of them is counted separately."""
    bench.push(1, 2)
    bench.push(1, status=Status.DONE)
    bench.writer._cycle.step()
    stats = bench.writer.stats()

    assert (stats.transitions, stats.flushes, stats.rows_written) == (3, 1, 2)
    assert (stats.rows_unchanged, stats.pending, stats.last_error) == (0, 0, None)
    assert stats.last_flush_seconds == 0.0


def test_an_error_without_a_text_is_summarized_by_its_name(bench):
    """Nothing follows the name."""
    bench.store.error = Outage()
    bench.push(1)
    bench.writer._cycle.step()

    assert bench.writer.stats().last_error == "Outage"


def test_what_threads_wait_for_takes_no_token(bench):
    """After any number of them, a single state is still written at once."""
    buffer = bench.writer._buffer
    for number in range(4 * BURST):
        buffer.push_awaited(make_transition(Status.DONE, message_id=make_id(number)), Latch())
        bench.writer._cycle.step()
    bench.push(1000)
    bench.writer._cycle.step()

    assert len(bench.store.committed) == 4 * BURST + 1


def test_what_threads_wait_for_is_written_alone(bench):
    """While flushes are limited in rate: a task that is running now is usually done by then."""
    for number in range(BURST):
        bench.push(number)
        bench.writer._cycle.step()
    bench.push(1000)
    latch = Latch()
    bench.writer._buffer.push_awaited(make_transition(Status.DONE, message_id=make_id(1001)), latch)
    bench.writer._cycle.step()

    assert latch.wait(0)
    assert [each.message_id for each in bench.store.committed[BURST:]] == [make_id(1001)]
