"""What is logged of outages and dropped states."""

from tests.support.bench import Bench, Outage
from tests.support.factories import make_id, make_transition


def test_the_oldest_tasks_are_dropped_beyond_max_pending_and_that_is_logged(bench, caplog):
    """Dropped tasks are counted, and one record is logged when that begins."""
    bench.store.error = Outage()
    for number in range(150):
        bench.push(number)
        bench.writer._cycle.step()

    assert bench.writer.stats().pending == 100
    assert bench.writer.stats().dropped == 50
    (line,) = dropping(caplog)
    assert "More than 100 messages wait" in line
    assert "MAX_PENDING" in line


def test_the_number_of_dropped_states_is_logged_when_the_buffer_has_drained(bench, caplog):
    """It is logged each time, once half of the buffer is free again."""
    for pushed, dropped in [(150, "50"), (101, "1")]:
        caplog.clear()
        bench.store.error = Outage()
        for number in range(pushed):
            bench.push(number)
            bench.writer._cycle.step()
        assert len(dropping(caplog)) == 1
        bench.store.error = None
        fail_after_batches(bench.store, 4)
        bench.now += 60
        bench.writer._cycle.step()
        assert bench.writer.stats().pending == 60
        assert len(dropping(caplog)) == 1
        bench.store.on_write = lambda: None
        bench.store.error = None
        bench.now += 60
        bench.writer._cycle.step()

        assert dropping(caplog)[1:] == [
            f"The task-state buffer has drained; {dropped} states were dropped before."
        ]


def push_large(bench, numbers):
    for number in numbers:
        bench.writer.push(make_transition(message_id=make_id(number), result="x" * 64_000))
        bench.writer._cycle.step()


def test_drops_beyond_max_pending_bytes_are_logged_with_the_limit(caplog):
    """The record states the limit and what to do.  Another one is logged when the buffer has
    drained, and nothing else is lost."""
    bench = Bench(flush_interval=1.0, max_batch_size=10, max_pending_bytes=1024**2)
    bench.store.error = Outage()
    push_large(bench, range(100))

    stats = bench.writer.stats()
    assert stats.dropped == 100 - stats.pending
    assert 1024**2 - 65_000 < stats.pending_bytes <= 1024**2
    assert "up to 100,000 messages or 1 MiB of them" in caplog.messages[0]
    assert dropping(caplog) == [
        "The messages that wait to be written take more than 1,048,576 bytes of memory, so the "
        "oldest states are dropped. Check that the database answers, or raise "
        "TASKSTATE['MAX_PENDING_BYTES']. This is logged once; when the buffer has drained, the "
        "number of dropped states is logged."
    ]
    bench.store.error = None
    fail_after_batches(bench.store, 1)
    bench.now += 60
    bench.writer._cycle.step()
    assert len(bench.store.committed) == 10
    assert bench.writer.stats().pending_bytes <= 1024**2 // 2
    bench.store.on_write = lambda: None
    bench.store.error = None
    bench.now += 60
    bench.writer._cycle.step()

    assert dropping(caplog)[1:] == [
        f"The task-state buffer has drained; {stats.dropped} states were dropped before."
    ]
    assert [transition.message_id for transition in bench.store.committed] == [
        make_id(number) for number in range(stats.dropped, 100)
    ]
    assert bench.writer.stats().pending_bytes == 0


def dropping(caplog):
    return [r.message for r in caplog.records if "dropped" in r.message]


def fail_after_batches(store, number):
    last = store.tries + number

    def fail():
        if store.tries > last:
            store.error = Outage()

    store.on_write = fail


def test_a_rejected_row_ends_an_outage(bench, caplog):
    """The database answers, so the next try does not wait, and the end of the outage is logged."""
    bench.store.error = Outage("connection refused")
    bench.push(1)
    bench.writer._cycle.step()
    bench.store.error = None
    bench.store.poison = {make_id(1)}
    bench.now += 60

    assert bench.writer._cycle.step() is None

    assert "written again" in caplog.text
    bench.push(2)
    assert bench.writer._cycle.step() is None
    assert [transition.message_id for transition in bench.store.committed] == [make_id(2)]
