"""A pending task: its statuses, and how large it is."""

import json

import pytest

from taskstate.transitions.pending import HISTORY_LENGTH
from taskstate.transitions.status import Status
from tests.support.buffers import MANY, pushed
from tests.support.factories import START, make_pending, make_transition


@pytest.mark.parametrize("character", ["\1", "'", '"', "\\", "\U0001f600"])
def test_a_row_is_never_larger_in_a_statement_than_its_upper_bound(character):
    """The longest form is JSON, escaped for MariaDB."""
    texts = {
        "actor_name": character * 300,
        "queue_name": character * 100,
        "description": character * 255,
        "model_name": character * 100,
        "app_name": character * 100,
    }
    pending = make_pending(make_transition(**texts))
    literal = json.dumps(list(texts.values()), ensure_ascii=False)
    escaped = literal.replace("\\", "\\\\").replace("'", "\\'").replace('"', '\\"')

    assert len(escaped.encode()) + 500 < pending.statement_bytes()


def test_a_pending_task_has_the_status_of_its_first_transition():
    """SYNCHRONOUS writes such a batch of one."""
    pending = make_pending(make_transition(Status.RUNNING))

    assert pending.statuses == (Status.RUNNING,)


def test_the_history_is_limited():
    """A message that is retried for days does not grow."""
    buffer = pushed(*(make_transition(stamp=stamp) for stamp in range(HISTORY_LENGTH + 50)))

    (pending,) = buffer.pop_batch(MANY)

    assert len(pending.statuses) == HISTORY_LENGTH


@pytest.mark.parametrize("order", [1, -1])
def test_a_repeated_transition_is_remembered_once(order):
    """Hooks may repeat themselves."""
    transitions = [make_transition(Status.ENQUEUED), make_transition(Status.RUNNING)] * 3
    (pending,) = pushed(*transitions[::order]).pop_batch(MANY)

    assert pending.statuses == (Status.ENQUEUED, Status.RUNNING)


# Progress.


def progress(at, stamp=1, **reports):
    return make_transition(Status.RUNNING, stamp, START + at, **(reports or {"progress": at}))


def started(at=0):
    return make_transition(Status.RUNNING, 1, START + at)


def of_one(transitions):
    (pending,) = pushed(*transitions).pop_batch(MANY)
    return pending.statuses


@pytest.mark.parametrize("order", [1, -1])
def test_progress_reports_are_not_in_the_statuses(order):
    """A start is, with any number of progress reports in the same flush and in any order."""
    reports = [progress(number) for number in range(1, 300)]
    reports += [progress(300, progress_text=""), progress(301, progress=None, progress_text="x")]

    assert of_one(reports[::order]) == ()
    assert of_one([started(), *reports][::order]) == (Status.RUNNING,)
    ended = make_transition(Status.DONE, at=START + 400, progress=100, result="{}")
    assert of_one([*reports, ended][::order]) == (Status.DONE,)
    waited = make_transition(Status.ENQUEUED, at=START)
    everything = [waited, started(), *reports, ended][::order]
    assert of_one(everything) == (Status.ENQUEUED, Status.RUNNING, Status.DONE)


def test_each_start_is_in_the_statuses():
    """Also that of a retry, which carries an error, and that of a run after a crash."""
    retried = make_transition(Status.DELAYED, 2, START + 2, error="Boom")
    again = make_transition(Status.RUNNING, 2, START + 3, attempt=2, error="Boom")
    transitions = [started(), progress(1), retried, again, progress(4, 2)]

    assert of_one(transitions) == (Status.RUNNING, Status.DELAYED, Status.RUNNING)
    assert of_one([started(), progress(1), started(2), progress(3)]) == (Status.RUNNING,) * 2


@pytest.mark.parametrize("starts_first", [True, False])
def test_a_start_stays_in_the_statuses_after_a_failed_flush(starts_first):
    """Once, though it may have been committed, and though progress was reported meanwhile."""
    transitions = [started(), progress(1)][:: 1 if starts_first else -1]
    buffer = pushed(transitions[0])
    failed = buffer.pop_batch(MANY)
    failed[0].maybe_committed = True
    buffer.queue.push(transitions[1])
    buffer.coalesce()
    buffer.requeue(failed)
    (pending,) = buffer.pop_batch(MANY)

    assert pending.statuses == (Status.RUNNING,)
    assert pending.latest.details.progress == 1


def test_progress_reports_do_not_fill_the_history():
    """A task may report progress for hours during an outage."""
    many = [progress(number) for number in range(1, HISTORY_LENGTH * 3)]
    (pending,) = pushed(make_transition(at=START - 1), started(), *many).pop_batch(MANY)

    assert pending.statuses == (Status.ENQUEUED, Status.RUNNING)
    assert len(pending.history) == 2
