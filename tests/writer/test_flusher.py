"""One flush at a time: what fails is kept, and what is bad is found."""

import dataclasses
import re

import pytest

from taskstate.transitions.status import Status
from taskstate.writer import flusher
from tests.support.bench import Outage, fail_from_second_on, has_emoji
from tests.support.factories import make_id, make_transition


def test_a_batch_may_be_committed_if_the_reply_was_lost(bench):
    """The store gets that mark, so that the signal is not lost together with the reply."""
    bench.store.errors_after_commit = [Outage("server closed the connection")]
    bench.push(1)
    bench.writer._cycle.step()
    bench.now += 60
    bench.writer._cycle.step()

    (first,), (second,) = bench.store.batches
    assert first is second
    assert second.maybe_committed
    assert len(bench.announced) == 1


def test_bad_rows_are_rejected_and_all_others_committed(bench, caplog):
    """A bad row is found by halving the batch, rejected, and logged with its id."""
    bench.store.poison = {make_id(3), make_id(7)}
    bench.push(*range(10))

    assert bench.writer._cycle.step() is None

    good = {make_id(n) for n in range(10)} - bench.store.poison
    assert {transition.message_id for transition in bench.store.committed} == good
    stats = bench.writer.stats()
    assert (stats.rejected, stats.failed_flushes, stats.pending, stats.rows_written) == (2, 0, 0, 8)
    assert "no such color" in stats.last_error
    logged = [record.message for record in caplog.records]
    assert [make_id(3) in logged[0], make_id(7) in logged[1]] == [True, True]


def test_all_rejected_rows_are_named_in_few_records(bench, caplog):
    """The first ten of a batch have a record each, and the others share one per fifty.  One more
    record is logged if the whole batch is rejected, since the rows are then hardly the cause."""
    bench.config = dataclasses.replace(bench.config, max_batch_size=100)
    bench.store.rejects = lambda transition: True
    bench.push(*range(100))

    bench.writer._cycle.step()

    named = re.findall(r"(\S+-\S+) \(enqueued, actor actor\)", caplog.text)
    assert sorted(named) == [make_id(n) for n in range(100)]
    *records, last = caplog.messages
    assert len(records) == 12
    assert last.startswith("The database rejected all 100 states of a batch")
    assert bench.writer.stats().rejected == 100


def test_the_names_of_rejected_rows_break_no_line_of_the_log(bench, caplog):
    """Neither in the records of the first rows, nor in the one that the others share."""
    bench.config = dataclasses.replace(bench.config, max_batch_size=100)
    bench.store.rejects = lambda transition: True
    for number in range(30):
        name = "act\nforged\x1b[2J"
        bench.writer.push(make_transition(message_id=make_id(number), actor_name=name))

    bench.writer._cycle.step()

    naming = [text for text in caplog.messages if "forged" in text]
    assert len(naming) == 11
    assert [text for text in naming if not text.isprintable()] == []


def test_a_rejected_row_is_written_without_its_texts(bench, caplog):
    """Its state matters most.  Only the texts that the table can't store are left out, and the row
    is announced as it was written.  The log names the fields, once per actor."""
    bench.store.rejects = has_emoji
    texts = {"error": "Boom", "traceback": "# 😀", "description": "😀", "metadata": "{}"}
    bench.writer.push(make_transition(Status.FAILED, message_id=make_id(1), **texts))
    bench.writer.push(make_transition(Status.FAILED, message_id=make_id(2), **texts))
    bench.push(3)

    assert bench.writer._cycle.step() is None

    (transition,) = [
        transition for transition in bench.store.committed if transition.message_id == make_id(1)
    ]
    assert (transition.status, transition.details.error, transition.details.traceback) == (
        "failed",
        "Boom",
        None,
    )
    assert (transition.fields.description, transition.fields.metadata) == ("", "{}")
    announced = {
        change.pending.latest.message_id: change.pending.latest for change in bench.announced
    }
    assert announced[make_id(1)] is transition
    (line,) = caplog.messages
    assert "actor actor is written without its description and traceback: " in line
    assert f"task {make_id(1)} (failed)" in line
    stats = bench.writer.stats()
    assert (stats.rows_written, stats.rejected, stats.failed_flushes) == (3, 0, 0)


def test_a_row_is_written_without_any_texts_if_needed(bench):
    """A CHECK or a size may be the cause.  Texts beyond ASCII are left out first, then all."""
    bench.store.rejects = lambda transition: bool(transition.details and transition.details.error)
    bench.writer.push(make_transition(Status.FAILED, error="x", traceback="ü", progress=50.0))

    assert bench.writer._cycle.step() is None

    (transition,) = bench.store.committed
    assert (
        transition.details.error,
        transition.details.traceback,
        transition.details.progress,
    ) == (None, None, 50.0)


def test_a_row_is_rejected_if_it_is_bad_without_its_texts_too(bench, caplog):
    """Its transition keeps its texts."""
    bench.store.poison = {make_id(1)}
    bench.writer.push(make_transition(Status.FAILED, error="Boom"))

    assert bench.writer._cycle.step() is None

    assert bench.writer.stats().rejected == 1
    assert caplog.messages == [
        f"The state of task {make_id(1)} (failed, actor actor) is not written, because the "
        "database rejects it as bad data: no such color"
    ]


def test_an_outage_while_texts_are_left_out_loses_no_text(bench):
    """The next try starts with the whole row."""
    bench.store.rejects = has_emoji
    fail_from_second_on(bench.store)
    transition = make_transition(Status.FAILED, error="Boom", traceback="😀")
    bench.writer.push(transition)
    bench.writer._cycle.step()
    assert bench.writer.stats().pending == 1

    bench.store.error = None
    bench.store.on_write = lambda: None
    bench.store.rejects = lambda transition: False
    bench.now += 60
    bench.writer._cycle.step()
    assert bench.store.committed == [transition]


def test_a_batch_that_takes_the_server_too_long_is_halved(bench, caplog):
    """The same batch would take as long again.  Its parts are written, and no row is rejected."""
    bench.store.most_rows = 3
    bench.store.poison = {make_id(4)}
    bench.push(*range(10))

    assert bench.writer._cycle.step() is None

    assert {transition.message_id for transition in bench.store.committed} == {
        make_id(n) for n in range(10) if n != 4
    }
    stats = bench.writer.stats()
    assert (stats.failed_flushes, stats.rejected, stats.pending) == (0, 1, 0)
    assert len(caplog.records) == 1


def test_a_single_row_that_takes_too_long_is_kept(bench, caplog):
    """It is an outage whose cause is logged, and not bad data."""
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
def test_a_row_that_takes_too_long_does_not_delay_the_others(bench, place, caplog):
    """A transaction may lock it.  It is kept and tried again, and that is logged once."""
    bench.config = dataclasses.replace(bench.config, max_batch_size=1000)
    bench.store.slow = {make_id(place)}
    bench.push(*range(40))
    for _ in range(3):
        bench.writer._cycle.step()
        bench.now += 60

    assert {transition.message_id for transition in bench.store.committed} == {
        make_id(number) for number in range(40) if number != place
    }
    assert (bench.writer.stats().pending, bench.writer.stats().rejected) == (1, 0)
    assert len([r for r in caplog.records if "longer than its time limit" in r.getMessage()]) == 1
    bench.store.slow = set()
    assert bench.writer._cycle.step() is None
    assert len(bench.store.committed) == 40


def test_an_error_while_a_row_is_rejected_loses_no_other_row(bench, monkeypatch):
    """A logging handler may raise.  The rest is kept, and written by the next try."""
    bench.store.poison = {make_id(1)}
    bench.push(*range(1, 5))

    def fail(*arguments):
        monkeypatch.undo()
        raise OSError("the disk is full")

    monkeypatch.setattr(flusher.logger, "error", fail)
    bench.writer._cycle.step()
    bench.now += 60
    bench.writer._cycle.step()

    assert {transition.message_id for transition in bench.store.committed} == {
        make_id(n) for n in (2, 3, 4)
    }
    assert bench.writer.stats().pending == 0


def test_an_outage_while_looking_for_a_bad_row_keeps_the_rest(bench):
    """Neither half of a batch is lost."""
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


def test_stale_connections_are_closed_before_and_after_a_flush(bench):
    """Django does not do that in a background thread."""
    bench.store.on_write = lambda: tidied.append(bench.store.stale_checks)
    tidied = []
    bench.push(1)
    bench.writer._cycle.step()

    assert tidied == [1]
    assert bench.store.stale_checks == 2
