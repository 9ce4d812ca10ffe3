"""One flush at a time: what fails is kept, what is bad is found, what changed is told."""

import threading

import pytest

from taskstate import flusher
from taskstate.transitions import Status
from tests.bench import Bench, Outage, fail_from_second_on
from tests.factories import make_id

# When it fails.


def test_an_outage_loses_nothing(bench, caplog):
    """The batch is kept, newer facts win, and the operator is told twice: start and end."""
    bench.store.error = Outage("connection refused")
    bench.push(*range(25))
    for _ in range(5):
        assert bench.writer.step() > 0
        bench.now += 60
    bench.push(3, status=Status.DONE)
    bench.push(26)
    assert bench.store.tries == 5
    assert bench.store.committed == []

    bench.store.error = None
    assert bench.writer.step() is None

    assert [fact.message_id for fact in bench.store.committed] == [
        *(make_id(n) for n in range(25)),
        make_id(26),
    ]
    assert bench.store.committed[3].status == Status.DONE
    stats = bench.writer.stats()
    assert (stats.failures, stats.dropped, stats.pending) == (5, 0, 0)
    assert stats.last_error == "Outage: connection refused"
    messages = [record.message for record in caplog.records]
    assert len(messages) == 2
    assert "Outage: connection refused" in messages[0]
    assert "written again" in messages[1]


def test_what_follows_a_failed_batch_is_kept_too(bench):
    """The failure of one batch must not lose those behind it."""
    bench.push(*range(25))
    fail_from_second_on(bench.store)

    bench.writer.step()

    assert len(bench.store.committed) == 10
    assert bench.writer.stats().pending == 15
    bench.store.error = None
    bench.store.on_write = lambda: None
    bench.now += 60
    bench.writer.step()
    assert {fact.message_id for fact in bench.store.committed} == {make_id(n) for n in range(25)}


def test_a_lost_answer_counts_as_uncertain(bench):
    """It may have been committed: the store is told, so that the signal is not lost with it."""
    bench.store.errors_after_commit = [Outage("server closed the connection")]
    bench.push(1)
    bench.writer.step()
    bench.now += 60
    bench.writer.step()

    (first,), (second,) = bench.store.batches
    assert first is second
    assert second.uncertain
    assert len(bench.announced) == 1


def test_pending_messages_are_bounded_and_drops_are_logged(bench, caplog):
    """At MAX_PENDING the oldest go, counted; a line tells when that begins."""
    bench.store.error = Outage()
    for number in range(150):
        bench.push(number)
        bench.writer.step()

    assert bench.writer.stats().pending == 100
    assert bench.writer.stats().dropped == 50
    (line,) = dropping(caplog)
    assert "More than 100 messages wait" in line
    assert "MAX_PENDING" in line


def test_a_line_tells_how_many_were_dropped_when_that_is_over(bench, caplog):
    """Each time for itself, and not before half of the room is free again."""
    for pushed, dropped in [(150, "50"), (101, "1")]:
        caplog.clear()
        bench.store.error = Outage()
        for number in range(pushed):
            bench.push(number)
            bench.writer.step()
        assert len(dropping(caplog)) == 1
        bench.store.error = None
        fail_after_batches(bench.store, 4)
        bench.now += 60
        bench.writer.step()
        assert bench.writer.stats().pending == 60
        assert len(dropping(caplog)) == 1
        bench.store.on_write = lambda: None
        bench.store.error = None
        bench.now += 60
        bench.writer.step()

        assert dropping(caplog)[1:] == [
            f"There is room again for task states; {dropped} were dropped meanwhile."
        ]


def dropping(caplog):
    return [r.message for r in caplog.records if "dropped" in r.message]


def fail_after_batches(store, number):
    last = store.tries + number

    def fail():
        if store.tries > last:
            store.error = Outage()

    store.on_write = fail


def test_one_bad_row_stays_one_bad_row(bench, caplog):
    """It is found by halving, refused, logged with its id; all others are committed."""
    bench.store.poison = {make_id(3), make_id(7)}
    bench.push(*range(10))

    assert bench.writer.step() is None

    good = {make_id(n) for n in range(10)} - bench.store.poison
    assert {fact.message_id for fact in bench.store.committed} == good
    stats = bench.writer.stats()
    assert (stats.refused, stats.failures, stats.pending, stats.rows_written) == (2, 0, 0, 8)
    assert "no such colour" in stats.last_error
    logged = [record.message for record in caplog.records]
    assert [make_id(3) in logged[0], make_id(7) in logged[1]] == [True, True]


def test_what_fails_in_refusing_a_row_costs_no_other(bench, monkeypatch):
    """A handler of the log that raises, say: the rest is kept, and written with the next try."""
    bench.store.poison = {make_id(1)}
    bench.push(*range(1, 5))

    def fail(*arguments):
        monkeypatch.undo()
        raise OSError("the disk is full")

    monkeypatch.setattr(flusher.logger, "error", fail)
    bench.writer.step()
    bench.now += 60
    bench.writer.step()

    assert {fact.message_id for fact in bench.store.committed} == {make_id(n) for n in (2, 3, 4)}
    assert bench.writer.stats().pending == 0


def test_a_refused_row_ends_an_outage(bench, caplog):
    """The database answers: the next try need not wait, and the operator knows."""
    bench.store.error = Outage("connection refused")
    bench.push(1)
    bench.writer.step()
    bench.store.error = None
    bench.store.poison = {make_id(1)}
    bench.now += 60

    assert bench.writer.step() is None

    assert "written again" in caplog.text
    bench.push(2)
    assert bench.writer.step() is None
    assert [fact.message_id for fact in bench.store.committed] == [make_id(2)]


def test_an_outage_while_looking_for_a_bad_row_keeps_the_rest(bench):
    """Neither half of a batch is lost by it."""
    bench.store.poison = {make_id(9)}
    fail_from_second_on(bench.store)
    bench.push(*range(10))
    bench.writer.step()
    assert bench.writer.stats().pending == 10

    bench.store.error = None
    bench.store.on_write = lambda: None
    bench.now += 60
    bench.writer.step()

    assert len(bench.store.committed) == 9
    assert bench.writer.stats().refused == 1


def test_an_error_without_a_text(bench):
    """It is called by its name, and nothing more."""
    bench.store.error = Outage()
    bench.push(1)
    bench.writer.step()

    assert bench.writer.stats().last_error == "Outage"


def test_an_exception_that_is_no_error_keeps_the_batch(bench):
    """SystemExit out of a driver, say: it goes its way, the batch stays."""
    bench.store.error = SystemExit()
    bench.push(1)
    with pytest.raises(SystemExit):
        bench.writer.step()

    assert bench.writer.stats().pending == 1
    assert bench.writer._flusher._in_flight == 0


# Its signals and statistics.


def test_changes_are_announced_after_their_commit(bench):
    """Receivers see what is in the table, per batch, with all statuses merged."""
    seen = []
    bench.writer._flusher._announce = lambda change: seen.append(
        (len(bench.store.batches), change.entry.statuses)
    )
    bench.push(1)
    bench.push(1, status=Status.RUNNING)
    bench.writer.step()

    assert seen == [(1, (Status.ENQUEUED, Status.RUNNING))]


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_whatever_a_receiver_raises_loses_nothing(error, bench, caplog):
    """Not the rest of the batch, not its news, not the thread."""
    heard = []

    def raise_once(change):
        heard.append(change.entry.winner.message_id)
        if len(heard) == 1:
            raise error

    bench.writer._flusher._announce = raise_once
    bench.store.poison = {make_id(9)}
    bench.push(*range(25))

    assert bench.writer.step() is None

    assert len(bench.store.committed) == len(heard) == 24
    assert "A receiver of task_changed failed" in caplog.text
    assert bench.writer.stats().failures == 0


def test_statistics_count_what_happened(bench):
    """Transitions, flushes and rows are different things."""
    bench.push(1, 2)
    bench.push(1, status=Status.DONE)
    bench.writer.step()
    stats = bench.writer.stats()

    assert (stats.transitions, stats.flushes, stats.rows_written) == (3, 1, 2)
    assert (stats.rows_unchanged, stats.pending, stats.last_error) == (0, 0, None)
    assert stats.last_flush_seconds == 0.0


def test_connections_are_tidied_around_a_flush(bench):
    """Nothing else cleans up the connection of a background thread."""
    bench.store.on_write = lambda: tidied.append(bench.store.tidied)
    tidied = []
    bench.push(1)
    bench.writer.step()

    assert tidied == [1]
    assert bench.store.tidied == 2


# SYNCHRONOUS.


def test_synchronous_writes_in_the_calling_thread():
    """The row is there, and its signal sent, when the push returns."""
    bench = Bench(synchronous=True)
    threads = []
    bench.store.on_write = lambda: threads.append(threading.current_thread())
    bench.push(1)

    assert threads == [threading.current_thread()]
    assert len(bench.store.committed) == len(bench.announced) == 1
    stats = bench.writer.stats()
    assert (stats.transitions, stats.flushes, stats.rows_written, stats.pending) == (1, 1, 1, 0)
    assert bench.store.tidied == 0
    assert bench.watched == [bench.writer]


def test_synchronous_counts_what_the_database_refuses():
    """Bad data is refused, not failed: no retry is to be expected."""
    bench = Bench(synchronous=True)
    bench.store.poison = {make_id(1)}
    bench.push(1)

    stats = bench.writer.stats()
    assert (stats.refused, stats.failures, stats.rows_written) == (1, 0, 0)


def test_a_failed_synchronous_write_is_logged_and_counted(caplog):
    """Tracking never breaks the work that it tracks."""
    bench = Bench(synchronous=True)
    bench.store.error = Outage("locked")
    bench.push(1)

    assert bench.writer.stats().failures == 1
    assert make_id(1) in caplog.text
    assert bench.writer.flush(0)
