"""A pending task: its statuses, and how large it is."""

import json

import pytest

from taskstate.transitions.pending import HISTORY_LENGTH
from taskstate.transitions.status import Status
from tests.support.buffers import MANY, pushed
from tests.support.factories import START, make_pending, make_transition


@pytest.mark.parametrize("character", ["\1", "'", '"', "\\", "\U0001f600"])
def test_a_row_takes_no_more_than_its_size(character):
    """As the longest of all forms has it: JSON, escaped for MariaDB."""
    texts = {
        "actor_name": character * 300,
        "queue_name": character * 100,
        "description": character * 255,
        "model_name": character * 100,
        "app_name": character * 100,
    }
    entry = make_pending(make_transition(**texts))
    literal = json.dumps(list(texts.values()), ensure_ascii=False)
    escaped = literal.replace("\\", "\\\\").replace("'", "\\'").replace('"', '\\"')

    assert len(escaped.encode()) + 500 < entry.statement_bytes()


def test_an_entry_begins_with_one_fact():
    """A batch of one is what SYNCHRONOUS writes."""
    entry = make_pending(make_transition(Status.RUNNING))

    assert entry.statuses == (Status.RUNNING,)


def test_history_is_bounded():
    """A message that is retried for days doesn't grow."""
    buffer = pushed(*(make_transition(stamp=stamp) for stamp in range(HISTORY_LENGTH + 50)))

    (entry,) = buffer.pop_batch(MANY)

    assert len(entry.statuses) == HISTORY_LENGTH


@pytest.mark.parametrize("order", [1, -1])
def test_a_repeated_transition_is_remembered_once(order):
    """Hooks may repeat themselves."""
    facts = [make_transition(Status.ENQUEUED), make_transition(Status.RUNNING)] * 3
    (entry,) = pushed(*facts[::order]).pop_batch(MANY)

    assert entry.statuses == (Status.ENQUEUED, Status.RUNNING)


# Progress.


def progress(at, stamp=1, **told):
    return make_transition(Status.RUNNING, stamp, START + at, **(told or {"progress": at}))


def started(at=0):
    return make_transition(Status.RUNNING, 1, START + at)


def of_one(facts):
    (entry,) = pushed(*facts).pop_batch(MANY)
    return entry.statuses


@pytest.mark.parametrize("order", [1, -1])
def test_progress_is_no_transition(order):
    """A start is one, whatever is told of the run in the same flush and in whatever order."""
    told = [progress(number) for number in range(1, 300)]
    told += [progress(300, progress_text=""), progress(301, progress=None, progress_text="x")]

    assert of_one(told[::order]) == ()
    assert of_one([started(), *told][::order]) == (Status.RUNNING,)
    ended = make_transition(Status.DONE, at=START + 400, progress=100, result="{}")
    assert of_one([*told, ended][::order]) == (Status.DONE,)
    waited = make_transition(Status.ENQUEUED, at=START)
    everything = [waited, started(), *told, ended][::order]
    assert of_one(everything) == (Status.ENQUEUED, Status.RUNNING, Status.DONE)


def test_each_start_is_a_transition():
    """That of a retry, which has an error to tell, and that of a run which a crash repeats."""
    retried = make_transition(Status.DELAYED, 2, START + 2, error="Boom")
    again = make_transition(Status.RUNNING, 2, START + 3, attempt=1, error="Boom")
    facts = [started(), progress(1), retried, again, progress(4, 2)]

    assert of_one(facts) == (Status.RUNNING, Status.DELAYED, Status.RUNNING)
    assert of_one([started(), progress(1), started(2), progress(3)]) == (Status.RUNNING,) * 2


@pytest.mark.parametrize("starts_first", [True, False])
def test_a_start_outlives_a_flush_that_failed(starts_first):
    """Once, though it may have been committed, and though progress was told meanwhile."""
    facts = [started(), progress(1)][:: 1 if starts_first else -1]
    buffer = pushed(facts[0])
    failed = buffer.pop_batch(MANY)
    failed[0].maybe_committed = True
    buffer.push(facts[1])
    buffer.coalesce()
    buffer.requeue(failed)
    (entry,) = buffer.pop_batch(MANY)

    assert entry.statuses == (Status.RUNNING,)
    assert entry.latest.details.progress == 1


def test_progress_does_not_crowd_out_what_is_remembered():
    """Of a task that tells it for hours while the database is away."""
    many = [progress(number) for number in range(1, HISTORY_LENGTH * 3)]
    (entry,) = pushed(make_transition(at=START - 1), started(), *many).pop_batch(MANY)

    assert entry.statuses == (Status.ENQUEUED, Status.RUNNING)
    assert len(entry.history) == 2
