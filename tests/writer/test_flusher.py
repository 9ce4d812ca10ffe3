"""One flush at a time: what fails is kept, what is bad is found, what changed is told."""

import dataclasses
import re

import pytest

from taskstate.transitions.status import Status
from taskstate.writer import flusher
from tests.support.bench import Outage, fail_from_second_on, has_emoji
from tests.support.factories import make_id, make_transition


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


def test_connections_are_tidied_around_a_flush(bench):
    """Nothing else cleans up the connection of a background thread."""
    bench.store.on_write = lambda: tidied.append(bench.store.tidied)
    tidied = []
    bench.push(1)
    bench.writer._cycle.step()

    assert tidied == [1]
    assert bench.store.tidied == 2
