"""The push, coalescing, and what happens when too much waits."""

import json

import pytest

from taskstate.buffer import (
    HISTORY_LENGTH,
    MAX_BATCH_BYTES,
    RAW_PER_MESSAGE,
    Buffer,
)
from taskstate.conf import Config
from taskstate.threads import Latch
from taskstate.transitions import Status
from taskstate.values import TEXT_LENGTH
from tests.factories import START, make_entry, make_id, make_transition

MANY = 10**9


def ids(batch):
    return [entry.winner.message_id for entry in batch]


def as_it_is(transition):
    return transition


def pushed(*transitions, max_pending=100):
    buffer = Buffer(max_pending, fit=as_it_is)
    for transition in transitions:
        buffer.push(transition)
    buffer.absorb()
    return buffer


def test_transitions_of_a_message_become_one_entry():
    """The newest wins, and the statuses on the way are remembered, oldest first."""
    done = make_transition(Status.DONE, at=START + 2)
    buffer = pushed(
        done,
        make_transition(Status.ENQUEUED, at=START),
        make_transition(Status.RUNNING, at=START + 1),
        done,
    )

    (entry,) = buffer.take(MANY)

    assert entry.winner is done
    assert entry.statuses == (Status.ENQUEUED, Status.RUNNING, Status.DONE)


def test_absorb_tells_how_many_transitions_it_took():
    """The statistics count transitions, not messages."""
    buffer = Buffer(10, fit=as_it_is)
    for _ in range(3):
        buffer.push(make_transition())

    assert len(buffer) == 3
    assert not buffer.untouched
    assert buffer.absorb() == 3
    assert buffer.untouched
    assert len(buffer) == buffer.messages == 1


def test_take_gives_the_oldest_first():
    """A message that got a newer fact keeps its place."""
    one, two, three = (make_id(number) for number in (1, 2, 3))
    buffer = pushed(
        *(make_transition(message_id=key) for key in (one, two, three)),
        make_transition(Status.DONE, message_id=one),
    )

    assert ids(buffer.take(2)) == [one, two]
    assert ids(buffer.take(2)) == [three]
    assert buffer.take(2) == []


def test_take_is_bounded_in_bytes():
    """A batch of long texts is shorter; one of the default size always fits."""
    short = [make_transition(message_id=make_id(n)) for n in range(5000)]
    long = [make_transition(message_id=make_id(n), description="x" * 255) for n in range(5000)]

    assert len(pushed(*short, max_pending=MANY).take(MANY)) == 5000
    batch = pushed(*long, max_pending=MANY).take(MANY)
    size = batch[0].size()
    assert size > 7 * 255
    assert len(batch) == MAX_BATCH_BYTES // size
    assert Config.max_batch_size <= MAX_BATCH_BYTES // (1_000 + 7 * TEXT_LENGTH)


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
    entry = make_entry(make_transition(**texts))
    literal = json.dumps(list(texts.values()), ensure_ascii=False)
    escaped = literal.replace("\\", "\\\\").replace("'", "\\'").replace('"', '\\"')

    assert len(escaped.encode()) + 500 < entry.size()


def test_put_back_goes_to_the_front_and_newer_facts_win():
    """A failed flush loses nothing, overwrites nothing newer, and keeps the order."""
    one, two, three = (make_id(number) for number in (1, 2, 3))
    buffer = pushed(*(make_transition(message_id=key) for key in (one, two)))
    failed = buffer.take(MANY)
    failed[0].uncertain = True
    done = make_transition(Status.DONE, message_id=one)
    buffer.push(make_transition(message_id=three))
    buffer.push(done)
    buffer.absorb()

    buffer.put_back(failed)

    batch = buffer.take(MANY)
    assert ids(batch) == [one, two, three]
    assert batch[0].winner is done
    assert batch[0].statuses == (Status.ENQUEUED, Status.DONE)
    assert batch[0].uncertain
    assert not batch[1].uncertain


def test_an_older_fact_that_came_later_does_not_win_over_what_is_put_back():
    """The merge is by rank, not by arrival."""
    done = make_transition(Status.DONE)
    buffer = pushed(done)
    failed = buffer.take(MANY)
    buffer.push(make_transition(Status.RUNNING))
    buffer.absorb()

    buffer.put_back(failed)

    assert buffer.take(MANY)[0].winner is done


def test_the_oldest_messages_are_dropped_and_counted():
    """Beyond MAX_PENDING, at the push and at putting back."""
    keys = [make_id(number) for number in range(5)]
    buffer = pushed(*(make_transition(message_id=key) for key in keys[:3]), max_pending=3)
    assert buffer.dropped == 0
    failed = buffer.take(MANY)
    for key in keys[3:]:
        buffer.push(make_transition(message_id=key))
    buffer.absorb()

    buffer.put_back(failed)

    assert buffer.dropped == 2
    assert ids(buffer.take(MANY)) == keys[2:]


def test_raw_pushes_are_bounded_while_nobody_takes_them():
    """A writer stuck in a dead socket can't cost the worker its memory."""
    buffer = Buffer(2, fit=as_it_is)
    limit = 2 * RAW_PER_MESSAGE
    for number in range(limit + 3):
        buffer.push(make_transition(message_id=make_id(number)))

    assert len(buffer) == limit
    assert buffer.dropped == 3
    buffer.absorb()
    assert ids(buffer.take(MANY)) == [make_id(number) for number in (9, 10)]


def test_history_is_bounded():
    """A message that is retried for days doesn't grow."""
    buffer = pushed(*(make_transition(hop=hop) for hop in range(HISTORY_LENGTH + 50)))

    (entry,) = buffer.take(MANY)

    assert len(entry.statuses) == HISTORY_LENGTH


@pytest.mark.parametrize("order", [1, -1])
def test_a_repeated_transition_is_remembered_once(order):
    """Hooks may repeat themselves."""
    facts = [make_transition(Status.ENQUEUED), make_transition(Status.RUNNING)] * 3
    (entry,) = pushed(*facts[::order]).take(MANY)

    assert entry.statuses == (Status.ENQUEUED, Status.RUNNING)


def test_an_entry_begins_with_one_fact():
    """A batch of one is what SYNCHRONOUS writes."""
    entry = make_entry(make_transition(Status.RUNNING))

    assert entry.statuses == (Status.RUNNING,)


# Facts that somebody waits for.


def is_open(latch):
    return latch.wait(0)


def awaited(buffer, transition):
    latch = Latch()
    buffer.push_awaited(transition, latch)
    return latch


def test_an_awaited_fact_is_merged_like_any_other():
    """It counts as pending before it is absorbed, and its latch stays with its entry."""
    buffer = Buffer(10, fit=as_it_is)
    buffer.push(make_transition(Status.RUNNING))
    latch = awaited(buffer, make_transition(Status.DONE))
    assert len(buffer) == 2
    assert not buffer.untouched

    assert buffer.absorb() == 2
    assert buffer.is_awaited
    (entry,) = buffer.take(MANY)

    assert entry.winner.status is Status.DONE
    assert not buffer.is_awaited
    assert not is_open(latch)
    entry.settle()
    assert is_open(latch)


def test_an_awaited_fact_comes_with_what_its_thread_pushed_before():
    """Though both are pushed in the middle of an absorb: "running" isn't left behind, to lose to
    a "done" that is told without it."""

    def push_in_between(transition):
        if transition.message_id == make_id(1):
            buffer.push(make_transition(Status.RUNNING, message_id=make_id(2)))
            awaited(buffer, make_transition(Status.DONE, message_id=make_id(2)))
        return transition

    buffer = Buffer(100, fit=push_in_between)
    buffer.push(make_transition(message_id=make_id(1)))
    found = []
    for _ in range(2):
        buffer.absorb()
        found += [entry.statuses for entry in buffer.take(MANY)]

    assert found == [(Status.ENQUEUED,), (Status.RUNNING, Status.DONE)]


def test_nobody_waits_for_a_fact_that_can_not_be_merged():
    """Whatever happens to it: nobody else would let them go."""

    def fail(transition):
        raise MemoryError

    buffer = Buffer(max_pending=10, fit=fail)
    latch = awaited(buffer, make_transition(Status.DONE))
    with pytest.raises(MemoryError):
        buffer.absorb()

    assert latch.wait(0)


def test_a_message_may_be_awaited_twice():
    """Two runs of it at once, after a crash: both are let go, even if a write failed between."""
    buffer = Buffer(10, fit=as_it_is)
    first = awaited(buffer, make_transition(Status.DONE))
    buffer.absorb()
    batch = buffer.take(MANY)
    second = awaited(buffer, make_transition(Status.DONE, hop=2))
    buffer.absorb()
    buffer.put_back(batch)
    assert buffer.is_awaited

    (entry,) = buffer.take(MANY)
    entry.settle()

    assert is_open(first)
    assert is_open(second)


def test_what_is_put_back_is_still_awaited():
    """A failed write lets nobody go."""
    buffer = Buffer(10, fit=as_it_is)
    latch = awaited(buffer, make_transition(Status.DONE))
    buffer.absorb()
    buffer.put_back(buffer.take(MANY))

    assert buffer.is_awaited
    assert not is_open(latch)


def test_who_waits_for_what_can_not_be_tracked_is_let_go():
    """There will never be a row."""
    buffer = Buffer(10, fit=lambda transition: None)
    latch = awaited(buffer, make_transition(Status.DONE))

    assert buffer.absorb() == 0
    assert is_open(latch)
    assert not buffer.is_awaited


def test_what_is_awaited_is_never_dropped():
    """The message would be acknowledged without its state: others go first."""
    buffer = Buffer(2, fit=as_it_is)
    latches = [awaited(buffer, make_transition(message_id=make_id(n))) for n in range(3)]
    for number in range(3, 6):
        buffer.push(make_transition(message_id=make_id(number)))
    buffer.absorb()

    assert ids(buffer.take(MANY)) == [make_id(n) for n in range(3)]
    assert buffer.dropped == 3
    assert not any(map(is_open, latches))


def test_it_knows_what_waits_longest():
    """Among entries, what isn't coalesced yet, and what is awaited; a newer fact about the same
    message doesn't make it younger, and what makes a fact later has no time so far."""
    buffer = Buffer(10, fit=as_it_is)
    assert buffer.oldest is None
    buffer.push_awaited(make_transition(message_id=make_id(1), happened_at=7.0), Latch())
    assert buffer.oldest == 7.0
    buffer.push(object())
    buffer.push(make_transition(message_id=make_id(2), happened_at=5.0))
    assert buffer.oldest == 5.0
    buffer._raw.popleft()
    buffer.absorb()
    buffer.push(make_transition(Status.RUNNING, message_id=make_id(2), happened_at=9.0))
    buffer.absorb()
    assert buffer.oldest == 5.0

    batch = buffer.take(1)
    assert buffer.oldest == 7.0
    buffer.put_back(batch)
    assert buffer.oldest == 5.0
    buffer.take(MANY)
    assert buffer.oldest is None
