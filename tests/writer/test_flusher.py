"""One flush at a time: what fails is kept, what is bad is found, what changed is told."""

import dataclasses
import re
import threading

import pytest

from taskstate.transitions.status import Status
from taskstate.writer import flusher
from tests.support.bench import Bench, Outage, fail_from_second_on
from tests.support.factories import make_id, make_transition

# When it fails.


def test_an_outage_loses_nothing(bench, caplog):
    """The batch is kept, newer facts win, and the operator is told twice: start and end."""
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

    assert [fact.message_id for fact in bench.store.committed] == [
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


def test_what_follows_a_failed_batch_is_kept_too(bench):
    """The failure of one batch must not lose those behind it."""
    bench.push(*range(25))
    fail_from_second_on(bench.store)

    bench.writer._cycle.step()

    assert len(bench.store.committed) == 10
    assert bench.writer.stats().pending == 15
    bench.store.error = None
    bench.store.on_write = lambda: None
    bench.now += 60
    bench.writer._cycle.step()
    assert {fact.message_id for fact in bench.store.committed} == {make_id(n) for n in range(25)}


def test_a_lost_answer_counts_as_uncertain(bench):
    """It may have been committed: the store is told, so that the signal is not lost with it."""
    bench.store.errors_after_commit = [Outage("server closed the connection")]
    bench.push(1)
    bench.writer._cycle.step()
    bench.now += 60
    bench.writer._cycle.step()

    (first,), (second,) = bench.store.batches
    assert first is second
    assert second.maybe_committed
    assert len(bench.announced) == 1


def test_pending_messages_are_bounded_and_drops_are_logged(bench, caplog):
    """At MAX_PENDING the oldest go, counted; a line tells when that begins."""
    bench.store.error = Outage()
    for number in range(150):
        bench.push(number)
        bench.writer._cycle.step()

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


def test_a_line_names_the_bound_in_bytes_if_that_was_exceeded(caplog):
    """With its value and the cure; one more says when that is over, and nothing else is lost."""
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
    assert [fact.message_id for fact in bench.store.committed] == [
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


def test_one_bad_row_stays_one_bad_row(bench, caplog):
    """It is found by halving, refused, logged with its id; all others are committed."""
    bench.store.poison = {make_id(3), make_id(7)}
    bench.push(*range(10))

    assert bench.writer._cycle.step() is None

    good = {make_id(n) for n in range(10)} - bench.store.poison
    assert {fact.message_id for fact in bench.store.committed} == good
    stats = bench.writer.stats()
    assert (stats.rejected, stats.failed_flushes, stats.pending, stats.rows_written) == (2, 0, 0, 8)
    assert "no such colour" in stats.last_error
    logged = [record.message for record in caplog.records]
    assert [make_id(3) in logged[0], make_id(7) in logged[1]] == [True, True]


def test_refused_rows_are_all_named_in_few_records(bench, caplog):
    """Ten of a batch by a record each, the others by one for fifty; and that nothing is left of a
    batch says one more, since it is no fault of the rows."""
    bench.config = dataclasses.replace(bench.config, max_batch_size=100)
    bench.store.refuses = lambda fact: True
    bench.push(*range(100))

    bench.writer._cycle.step()

    named = re.findall(r"(\S+-\S+) \(enqueued, actor actor\)", caplog.text)
    assert sorted(named) == [make_id(n) for n in range(100)]
    *records, last = caplog.messages
    assert len(records) == 12
    assert last.startswith("The database rejected all 100 states of a batch")
    assert bench.writer.stats().rejected == 100


# What is left out, and what is cut.


def has_emoji(fact):
    texts = (fact.fields.description, *(fact.details or ()))
    return any("😀" in text for text in texts if isinstance(text, str))


def test_the_names_of_refused_rows_break_no_line_of_the_log(bench, caplog):
    """Each of the first ones has a record of its own, and the others share one."""
    bench.config = dataclasses.replace(bench.config, max_batch_size=100)
    bench.store.refuses = lambda fact: True
    for number in range(30):
        name = "act\nforged\x1b[2J"
        bench.writer.push(make_transition(message_id=make_id(number), actor_name=name))

    bench.writer._cycle.step()

    naming = [text for text in caplog.messages if "forged" in text]
    assert len(naming) == 11
    assert [text for text in naming if not text.isprintable()] == []


def test_a_refused_row_is_written_without_its_texts(bench, caplog):
    """Its state is what matters: only what the table may not hold is left out, and the signal tells
    the row as it was written.  The log names the fields, once per actor."""
    bench.store.refuses = has_emoji
    texts = {"error": "Boom", "traceback": "# 😀", "description": "😀", "metadata": "{}"}
    bench.writer.push(make_transition(Status.FAILED, message_id=make_id(1), **texts))
    bench.writer.push(make_transition(Status.FAILED, message_id=make_id(2), **texts))
    bench.push(3)

    assert bench.writer._cycle.step() is None

    (fact,) = [fact for fact in bench.store.committed if fact.message_id == make_id(1)]
    assert (fact.status, fact.details.error, fact.details.traceback) == ("failed", "Boom", None)
    assert (fact.fields.description, fact.fields.metadata) == ("", "{}")
    told = {change.pending.latest.message_id: change.pending.latest for change in bench.announced}
    assert told[make_id(1)] is fact
    (line,) = caplog.messages
    assert "actor actor is written without its description and traceback: " in line
    assert f"task {make_id(1)} (failed)" in line
    stats = bench.writer.stats()
    assert (stats.rows_written, stats.rejected, stats.failed_flushes) == (3, 0, 0)


def test_all_texts_may_be_the_reason(bench):
    """A CHECK, a size: what isn't ASCII is left out first, then all the others as well."""
    bench.store.refuses = lambda fact: bool(fact.details and fact.details.error)
    bench.writer.push(make_transition(Status.FAILED, error="x", traceback="ü", progress=50.0))

    assert bench.writer._cycle.step() is None

    (fact,) = bench.store.committed
    assert (fact.details.error, fact.details.traceback, fact.details.progress) == (None, None, 50.0)


def test_if_the_texts_were_not_the_reason_the_row_is_refused(bench, caplog):
    """As it would be without any, and all of it is kept for what comes later."""
    bench.store.poison = {make_id(1)}
    bench.writer.push(make_transition(Status.FAILED, error="Boom"))

    assert bench.writer._cycle.step() is None

    assert bench.writer.stats().rejected == 1
    assert caplog.messages == [
        f"The state of task {make_id(1)} (failed, actor actor) is not written, because the "
        "database rejects it as bad data: no such colour"
    ]


def test_an_outage_while_texts_are_left_out_loses_none(bench):
    """The next try begins with the whole row."""
    bench.store.refuses = has_emoji
    fail_from_second_on(bench.store)
    fact = make_transition(Status.FAILED, error="Boom", traceback="😀")
    bench.writer.push(fact)
    bench.writer._cycle.step()
    assert bench.writer.stats().pending == 1

    bench.store.error = None
    bench.store.on_write = lambda: None
    bench.store.refuses = lambda fact: False
    bench.now += 60
    bench.writer._cycle.step()
    assert bench.store.committed == [fact]


def test_what_takes_the_server_too_long_is_halved(bench, caplog):
    """The same batch would take as long again: its parts pass, and no row is to blame."""
    bench.store.most_rows = 3
    bench.store.poison = {make_id(4)}
    bench.push(*range(10))

    assert bench.writer._cycle.step() is None

    assert {fact.message_id for fact in bench.store.committed} == {
        make_id(n) for n in range(10) if n != 4
    }
    stats = bench.writer.stats()
    assert (stats.failed_flushes, stats.rejected, stats.pending) == (0, 1, 0)
    assert len(caplog.records) == 1


def test_a_single_row_that_takes_too_long_is_kept(bench, caplog):
    """It is an outage, whose cause the log tells, and never bad data."""
    bench.store.most_rows = 0
    bench.push(*range(4))
    assert bench.writer._cycle.step() > 0

    assert (bench.writer.stats().pending, bench.writer.stats().rejected) == (4, 0)
    assert "can't be written: Outage: it took too long." in caplog.text
    bench.store.most_rows = 4
    bench.now += 60
    assert bench.writer._cycle.step() is None
    assert len(bench.store.committed) == 4


@pytest.mark.parametrize("place", [0, 19, 39])
def test_a_row_that_takes_too_long_holds_up_no_other(bench, place, caplog):
    """A transaction locks it, say: it is kept and tried again, and one record says so."""
    bench.config = dataclasses.replace(bench.config, max_batch_size=1000)
    bench.store.slow = {make_id(place)}
    bench.push(*range(40))
    for _ in range(3):
        bench.writer._cycle.step()
        bench.now += 60

    assert {fact.message_id for fact in bench.store.committed} == {
        make_id(number) for number in range(40) if number != place
    }
    assert (bench.writer.stats().pending, bench.writer.stats().rejected) == (1, 0)
    assert len([r for r in caplog.records if "longer than its time limit" in r.getMessage()]) == 1
    bench.store.slow = set()
    assert bench.writer._cycle.step() is None
    assert len(bench.store.committed) == 40


def test_what_fails_in_refusing_a_row_costs_no_other(bench, monkeypatch):
    """A handler of the log that raises, say: the rest is kept, and written with the next try."""
    bench.store.poison = {make_id(1)}
    bench.push(*range(1, 5))

    def fail(*arguments):
        monkeypatch.undo()
        raise OSError("the disk is full")

    monkeypatch.setattr(flusher.logger, "error", fail)
    bench.writer._cycle.step()
    bench.now += 60
    bench.writer._cycle.step()

    assert {fact.message_id for fact in bench.store.committed} == {make_id(n) for n in (2, 3, 4)}
    assert bench.writer.stats().pending == 0


def test_a_refused_row_ends_an_outage(bench, caplog):
    """The database answers: the next try need not wait, and the operator knows."""
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
    assert [fact.message_id for fact in bench.store.committed] == [make_id(2)]


def test_an_outage_while_looking_for_a_bad_row_keeps_the_rest(bench):
    """Neither half of a batch is lost by it."""
    bench.store.poison = {make_id(9)}
    fail_from_second_on(bench.store)
    bench.push(*range(10))
    bench.writer._cycle.step()
    assert bench.writer.stats().pending == 10

    bench.store.error = None
    bench.store.on_write = lambda: None
    bench.now += 60
    bench.writer._cycle.step()

    assert len(bench.store.committed) == 9
    assert bench.writer.stats().rejected == 1


def test_an_error_without_a_text(bench):
    """It is called by its name, and nothing more."""
    bench.store.error = Outage()
    bench.push(1)
    bench.writer._cycle.step()

    assert bench.writer.stats().last_error == "Outage"


def test_an_exception_that_is_no_error_keeps_the_batch(bench):
    """SystemExit out of a driver, say: it goes its way, the batch stays."""
    bench.store.error = SystemExit()
    bench.push(1)
    with pytest.raises(SystemExit):
        bench.writer._cycle.step()

    assert bench.writer.stats().pending == 1
    assert bench.writer._cycle.flusher.in_flight == 0


# Its signals and statistics.


def test_changes_are_announced_after_their_commit(bench):
    """Receivers see what is in the table, per batch, with all statuses merged."""
    seen = []
    bench.writer._cycle.announcer._announce = lambda change: seen.append(
        (len(bench.store.batches), change.pending.statuses)
    )
    bench.push(1)
    bench.push(1, status=Status.RUNNING)
    bench.writer._cycle.step()

    assert seen == [(1, (Status.ENQUEUED, Status.RUNNING))]


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_whatever_a_receiver_raises_loses_nothing(error, bench, caplog):
    """Not the rest of the batch, not its news, not the thread."""
    heard = []

    def raise_once(change):
        heard.append(change.pending.latest.message_id)
        if len(heard) == 1:
            raise error

    bench.writer._cycle.announcer._announce = raise_once
    bench.store.poison = {make_id(9)}
    bench.push(*range(25))

    assert bench.writer._cycle.step() is None

    assert len(bench.store.committed) == len(heard) == 24
    assert "A receiver of task_changed failed" in caplog.text
    assert bench.writer.stats().failed_flushes == 0


def test_statistics_count_what_happened(bench):
    """Transitions, flushes and rows are different things."""
    bench.push(1, 2)
    bench.push(1, status=Status.DONE)
    bench.writer._cycle.step()
    stats = bench.writer.stats()

    assert (stats.transitions, stats.flushes, stats.rows_written) == (3, 1, 2)
    assert (stats.rows_unchanged, stats.pending, stats.last_error) == (0, 0, None)
    assert stats.last_flush_seconds == 0.0


def test_connections_are_tidied_around_a_flush(bench):
    """Nothing else cleans up the connection of a background thread."""
    bench.store.on_write = lambda: tidied.append(bench.store.tidied)
    tidied = []
    bench.push(1)
    bench.writer._cycle.step()

    assert tidied == [1]
    assert bench.store.tidied == 2


# SYNCHRONOUS.


def test_synchronous_writes_in_the_calling_thread():
    """The row is there, and its signal sent, when the push returns."""
    bench = Bench()
    threads = []
    bench.store.on_write = lambda: threads.append(threading.current_thread())
    bench.synchronous.push(make_transition(message_id=make_id(1)))

    assert threads == [threading.current_thread()]
    assert len(bench.store.committed) == len(bench.announced) == 1
    stats = bench.synchronous.stats()
    assert (stats.transitions, stats.flushes, stats.rows_written, stats.pending) == (1, 1, 1, 0)
    assert bench.store.tidied == 0
    assert bench.watched == [bench.synchronous]


def test_synchronous_counts_what_the_database_refuses():
    """Bad data is refused, not failed: no retry is to be expected."""
    bench = Bench()
    bench.store.poison = {make_id(1)}
    bench.synchronous.push(make_transition(message_id=make_id(1)))

    stats = bench.synchronous.stats()
    assert (stats.rejected, stats.failed_flushes, stats.rows_written) == (1, 0, 0)


def test_synchronous_leaves_out_refused_texts():
    """As the writer's thread does."""
    bench = Bench()
    bench.store.refuses = has_emoji
    bench.synchronous.push(make_transition(Status.FAILED, error="😀"))

    (fact,) = bench.store.committed
    assert (fact.status, fact.details.error) == ("failed", None)
    assert bench.synchronous.stats().rejected == 0


def test_a_failed_synchronous_write_is_logged_and_counted(caplog):
    """Tracking never breaks the work that it tracks."""
    bench = Bench()
    bench.store.error = Outage("locked")
    bench.synchronous.push(make_transition(message_id=make_id(1)))

    assert bench.synchronous.stats().failed_flushes == 1
    assert make_id(1) in caplog.text
    assert bench.synchronous.flush(0)


def test_synchronous_warns_once_per_actor(caplog):
    """However many of its tasks are written without a text."""
    bench = Bench()
    bench.store.refuses = has_emoji
    for number in range(3):
        bench.synchronous.push(make_transition(message_id=make_id(number), error="😀"))

    assert len(caplog.records) == 1
