"""Coalescing, batches, and what is dropped when too much is pending."""

import gc
import random
import tracemalloc

import pytest

from taskstate.conf import Config
from taskstate.transitions.pending import MAX_BATCH_BYTES, MESSAGE_BYTES
from taskstate.transitions.sanitize import TEXT_LENGTH
from taskstate.transitions.status import Status
from taskstate.utils.sync import Latch
from taskstate.writer import buffer as buffer_module
from taskstate.writer.buffer import QUEUE_ITEMS_PER_PENDING, Buffer
from tests.support.buffers import (
    MANY,
    MIB,
    Deferred,
    as_they_are,
    awaited,
    ids,
    is_open,
    lower_ids,
    make_large,
    pushed,
)
from tests.support.factories import START, make_id, make_pending, make_transition


def test_transitions_of_a_message_become_one_pending_task():
    """The latest transition wins, and the statuses on the way are kept, oldest first."""
    done = make_transition(Status.DONE, at=START + 2)
    buffer = pushed(
        done,
        make_transition(Status.ENQUEUED, at=START),
        make_transition(Status.RUNNING, at=START + 1),
        done,
    )

    (pending,) = buffer.pop_batch(MANY)

    assert pending.latest is done
    assert pending.statuses == (Status.ENQUEUED, Status.RUNNING, Status.DONE)


def test_coalesce_returns_the_number_of_transitions():
    """The statistics count transitions, not messages."""
    buffer = Buffer(10, normalize=as_they_are)
    for _ in range(3):
        buffer.queue.push(make_transition())

    assert len(buffer) == 3
    assert buffer.queue
    assert buffer.coalesce() == 3
    assert not buffer.queue
    assert len(buffer) == buffer.pending_count == 1


def test_pop_batch_returns_the_oldest_first():
    """A pending task that gets a newer transition keeps its place."""
    one, two, three = (make_id(number) for number in (1, 2, 3))
    buffer = pushed(
        *(make_transition(message_id=key) for key in (one, two, three)),
        make_transition(Status.DONE, message_id=one),
    )

    assert ids(buffer.pop_batch(2)) == [one, two]
    assert ids(buffer.pop_batch(2)) == [three]
    assert buffer.pop_batch(2) == []


def test_a_batch_is_limited_in_bytes():
    """A batch of long texts has fewer rows.  A batch of the default size always fits."""
    short = [make_transition(message_id=make_id(n)) for n in range(5000)]
    long = [make_transition(message_id=make_id(n), description="x" * 255) for n in range(5000)]

    assert len(pushed(*short, max_pending=MANY).pop_batch(MANY)) == 5000
    batch = pushed(*long, max_pending=MANY).pop_batch(MANY)
    size = batch[0].statement_bytes()
    assert size > 7 * 255
    assert len(batch) == MAX_BATCH_BYTES // size
    assert Config.max_batch_size <= MAX_BATCH_BYTES // (1_000 + 7 * TEXT_LENGTH)


def test_requeued_tasks_go_to_the_front_and_newer_transitions_win():
    """A failed flush loses nothing, replaces nothing newer, and keeps the order."""
    one, two, three = (make_id(number) for number in (1, 2, 3))
    buffer = pushed(*(make_transition(message_id=key) for key in (one, two)))
    failed = buffer.pop_batch(MANY)
    failed[0].maybe_committed = True
    done = make_transition(Status.DONE, message_id=one)
    buffer.queue.push(make_transition(message_id=three))
    buffer.queue.push(done)
    buffer.coalesce()

    buffer.requeue(failed)

    batch = buffer.pop_batch(MANY)
    assert ids(batch) == [one, two, three]
    assert batch[0].latest is done
    assert batch[0].statuses == (Status.ENQUEUED, Status.DONE)
    assert batch[0].maybe_committed
    assert not batch[1].maybe_committed


def test_an_older_transition_pushed_later_does_not_replace_a_requeued_one():
    """The rank decides, not the order of arrival."""
    done = make_transition(Status.DONE)
    buffer = pushed(done)
    failed = buffer.pop_batch(MANY)
    buffer.queue.push(make_transition(Status.RUNNING))
    buffer.coalesce()

    buffer.requeue(failed)

    assert buffer.pop_batch(MANY)[0].latest is done


def test_the_oldest_pending_tasks_are_dropped_and_counted():
    """Beyond MAX_PENDING, both when tasks are pushed and when they are requeued."""
    keys = [make_id(number) for number in range(5)]
    buffer = pushed(*(make_transition(message_id=key) for key in keys[:3]), max_pending=3)
    assert buffer.dropped == 0
    failed = buffer.pop_batch(MANY)
    for key in keys[3:]:
        buffer.queue.push(make_transition(message_id=key))
    buffer.coalesce()

    buffer.requeue(failed)

    assert buffer.dropped == 2
    assert ids(buffer.pop_batch(MANY)) == keys[2:]


# Transitions that a thread waits for.


def test_an_awaited_transition_is_coalesced_like_any_other():
    """It counts as pending before it is coalesced, and its latch stays with its pending task."""
    buffer = Buffer(10, normalize=as_they_are)
    buffer.queue.push(make_transition(Status.RUNNING))
    latch = awaited(buffer, make_transition(Status.DONE))
    assert len(buffer) == 2
    assert buffer.queue

    assert buffer.coalesce() == 2
    assert buffer.awaited_count
    (pending,) = buffer.pop_batch(MANY)

    assert pending.latest.status is Status.DONE
    assert not buffer.awaited_count
    assert not is_open(latch)
    pending.resolve()
    assert is_open(latch)


def test_an_awaited_transition_is_coalesced_with_what_its_thread_pushed_before():
    """Even if both are pushed while the writer coalesces: otherwise "done" would be announced
    without "running"."""

    def push_in_between(transitions):
        if transitions[0].message_id == make_id(1):
            buffer.queue.push(make_transition(Status.RUNNING, message_id=make_id(2)))
            awaited(buffer, make_transition(Status.DONE, message_id=make_id(2)))
        return transitions

    buffer = Buffer(100, normalize=push_in_between)
    buffer.queue.push(make_transition(message_id=make_id(1)))
    found = []
    for _ in range(2):
        buffer.coalesce()
        found += [pending.statuses for pending in buffer.pop_batch(MANY)]

    assert found == [(Status.ENQUEUED,), (Status.RUNNING, Status.DONE)]


def fail(transition):
    raise MemoryError


def test_waiters_are_released_if_a_transition_can_not_be_merged(monkeypatch):
    """Nothing else would release them."""
    monkeypatch.setattr(buffer_module, "PendingTask", fail)
    buffer = Buffer(max_pending=10, normalize=as_they_are)
    latch = awaited(buffer, make_transition(Status.DONE))
    with pytest.raises(MemoryError):
        buffer.coalesce()

    assert latch.wait(0)


def test_two_threads_can_wait_for_one_message():
    """After a crash a message may run twice at a time.  Both threads are released, also after a
    failed write."""
    buffer = Buffer(10, normalize=as_they_are)
    first = awaited(buffer, make_transition(Status.DONE))
    buffer.coalesce()
    batch = buffer.pop_batch(MANY)
    second = awaited(buffer, make_transition(Status.DONE, stamp=2))
    buffer.coalesce()
    buffer.requeue(batch)
    assert buffer.awaited_count

    (pending,) = buffer.pop_batch(MANY)
    pending.resolve()

    assert is_open(first)
    assert is_open(second)


def test_requeued_tasks_are_still_awaited():
    """A failed write releases no thread."""
    buffer = Buffer(10, normalize=as_they_are)
    latch = awaited(buffer, make_transition(Status.DONE))
    buffer.coalesce()
    buffer.requeue(buffer.pop_batch(MANY))

    assert buffer.awaited_count
    assert not is_open(latch)


def test_an_error_while_a_batch_is_normalized_loses_nothing():
    """All of it stays pending and awaited."""
    buffer = Buffer(10, normalize=as_they_are)
    buffer.queue.push(make_transition(message_id=make_id(1)))
    latch = awaited(buffer, make_transition(Status.DONE, message_id=make_id(2)))
    buffer.coalesce()
    buffer._normalize = fail
    with pytest.raises(MemoryError):
        buffer.pop_batch(MANY)
    buffer._normalize = as_they_are

    assert not is_open(latch)
    assert ids(buffer.pop_batch(MANY)) == [make_id(1), make_id(2)]


def test_a_message_without_a_valid_id_is_not_kept():
    """It can never be written, so other tasks must not be delayed or dropped for it."""

    def normalize(transitions):
        return [each if each.message_id.count("-") == 4 else None for each in transitions]

    buffer = Buffer(2, normalize=normalize)
    buffer.queue.push(make_transition(message_id=make_id(1)))
    for number in range(5):
        buffer.queue.push(make_transition(message_id=f"job-{number}"))
    latch = awaited(buffer, make_transition(Status.DONE, message_id="job-9"))

    assert buffer.coalesce() == 1
    assert is_open(latch)
    assert not buffer.awaited_count
    assert (len(buffer), buffer.dropped) == (1, 0)


def test_only_the_latest_transition_is_normalized():
    """Of three transitions of a message, only one is written."""
    normalized = []
    buffer = Buffer(10, normalize=lambda batch: normalized.extend(batch) or batch)
    for status in (Status.ENQUEUED, Status.RUNNING, Status.DONE):
        buffer.queue.push(make_transition(status))
    buffer.coalesce()
    buffer.pop_batch(MANY)

    assert [transition.status for transition in normalized] == ["done"]


def test_a_batch_holds_a_message_once_however_its_id_is_spelled():
    """A statement can't update a row twice."""
    canonical, upper = (
        make_transition(message_id="ab" * 16),
        make_transition(Status.DONE, message_id="AB" * 16),
    )
    buffer = Buffer(10, normalize=lower_ids)
    latch = awaited(buffer, upper)
    buffer.queue.push(canonical)
    buffer.coalesce()

    (pending,) = buffer.pop_batch(MANY)
    assert pending.statuses == (Status.ENQUEUED, Status.DONE)
    pending.resolve()
    assert is_open(latch)


def test_transitions_of_equal_rank_are_compared_by_their_normalized_fields():
    """The databases compare these too."""
    names = {"x": "b", "y": "a"}  # The greater one is the smaller one as it came.
    first, second = make_transition(queue_name="x"), make_transition(queue_name="y")

    def normalize(transitions):
        for transition in transitions:
            name = transition.fields.queue_name
            fields = transition.fields._replace(queue_name=names.get(name, name))
            yield transition._replace(fields=fields)

    for pair in ([first, second], [second, first]):
        buffer = Buffer(10, normalize=lambda transitions: list(normalize(transitions)))
        for transition in pair:
            buffer.queue.push(transition)
        buffer.coalesce()
        (pending,) = buffer.pop_batch(MANY)
        assert pending.latest.fields.queue_name == "b"


def test_waiters_are_released_if_a_message_can_not_be_tracked():
    """Its row will never be written."""
    buffer = Buffer(10, normalize=lambda transitions: [None for _ in transitions])
    latch = awaited(buffer, make_transition(Status.DONE))

    buffer.coalesce()
    assert buffer.pop_batch(MANY) == []
    assert is_open(latch)
    assert not buffer.awaited_count


def test_awaited_tasks_are_never_dropped():
    """Otherwise the message would be acknowledged without its state.  Others are dropped."""
    buffer = Buffer(2, normalize=as_they_are)
    waiters = [awaited(buffer, make_transition(message_id=make_id(n))) for n in range(3)]
    for number in range(3, 6):
        buffer.queue.push(make_transition(message_id=make_id(number)))
    buffer.coalesce()

    assert ids(buffer.pop_batch(MANY)) == [make_id(n) for n in range(3)]
    assert buffer.dropped == 3
    assert not any(map(is_open, waiters))


def test_the_oldest_waiting_transition_is_known():
    """Pending tasks, awaited transitions and those that are not coalesced yet count.  A newer
    transition of the same message changes nothing, and a deferred one has no time yet."""
    buffer = Buffer(10, normalize=as_they_are)
    assert buffer.oldest_happened_at is None
    buffer.push_awaited(make_transition(message_id=make_id(1), happened_at=7.0), Latch())
    assert buffer.oldest_happened_at == 7.0
    deferred = Deferred()
    buffer.queue.push_deferred(deferred)
    buffer.queue.push(make_transition(message_id=make_id(2), happened_at=5.0))
    assert buffer.oldest_happened_at == 5.0
    buffer.queue._items.popleft()
    buffer.coalesce()
    buffer.queue.push(make_transition(Status.RUNNING, message_id=make_id(2), happened_at=9.0))
    buffer.coalesce()
    assert buffer.oldest_happened_at == 5.0

    batch = buffer.pop_batch(1)
    assert buffer.oldest_happened_at == 7.0
    buffer.requeue(batch)
    assert buffer.oldest_happened_at == 5.0
    buffer.pop_batch(MANY)
    assert buffer.oldest_happened_at is None


# The limit in bytes.


def test_the_oldest_pending_tasks_beyond_max_bytes_are_dropped():
    """No more than necessary are dropped."""
    buffer = pushed(*map(make_large, range(10)), max_bytes=MIB)
    assert (buffer.dropped, buffer.pending_count) == (0, 10)
    for number in range(10, 40):
        buffer.queue.push(make_large(number))
        buffer.coalesce()

    left = buffer.pending_count
    assert buffer.dropped == 40 - left
    assert buffer.exceeded_setting == "MAX_PENDING_BYTES"
    assert MIB - 65_000 < buffer.memory <= MIB
    assert ids(buffer.pop_batch(MANY)) == [make_id(number) for number in range(40 - left, 40)]
    assert buffer.memory == 0


def test_requeued_tasks_are_limited_in_bytes():
    """Awaited tasks are kept."""
    buffer = Buffer(MANY, normalize=as_they_are, max_bytes=MIB)
    latch = awaited(buffer, make_large(0))
    for number in range(1, 12):
        buffer.queue.push(make_large(number))
    buffer.coalesce()
    failed = buffer.pop_batch(MANY)
    for number in range(12, 24):
        buffer.queue.push(make_large(number))
    buffer.coalesce()
    assert buffer.dropped == 0

    buffer.requeue(failed)

    assert buffer.memory <= MIB
    kept = ids(buffer.pop_batch(MANY))
    kept.remove(make_id(0))
    assert kept == [make_id(number) for number in range(24 - len(kept), 24)]
    assert buffer.dropped == 23 - len(kept)
    assert not is_open(latch)


def test_only_the_latest_transition_counts_as_memory():
    """The traceback of an earlier attempt is not counted any more."""
    failed = make_large(1, Status.DELAYED, traceback="x" * 8_000, error="Oops")
    buffer = pushed(failed)
    assert buffer.memory > 8_000
    buffer.queue.push(make_large(1, Status.DONE, progress=1.0))
    buffer.coalesce()

    assert MESSAGE_BYTES < buffer.memory < MESSAGE_BYTES + 1_000


@pytest.mark.parametrize(
    ("character", "size"), [("x", 1), ("\xe9", 1), ("\u044f", 2), ("\U0001f600", 4)]
)
def test_a_character_counts_as_many_bytes_as_it_takes(character, size):
    """That is 1, 2 or 4 bytes, in each text that may be long."""
    texts = {"metadata": 2_000, "stored_message": 9_000, "traceback": 8_000, "result": 60_000}
    buffer = pushed(make_transition(**{name: character * n for name, n in texts.items()}))

    assert buffer.memory == pytest.approx(size * sum(texts.values()) + MESSAGE_BYTES, rel=0.02)


@pytest.mark.parametrize("size", [0, 300, 5_000, 60_000])
@pytest.mark.parametrize("are_coalesced", [False, True])
def test_the_counted_memory_is_what_python_takes(size, are_coalesced):
    """The larger a message is, the more exact is the count."""
    texts = {"actor_name": "act", "description": "Export of report", "model_name": "Report"}
    if size:
        texts["result"] = "x" * size
    buffer = Buffer(MANY, normalize=as_they_are)
    gc.collect()
    tracemalloc.start()
    for number in range(200):
        own = {name: f"{number:04}{text}" for name, text in texts.items()}
        moments = {"at": 10**12 + number, "started_at": 10**12 + number}
        buffer.queue.push(make_transition(message_id=make_id(number), **moments, **own))
    if are_coalesced:
        buffer.coalesce()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert buffer.memory == pytest.approx(taken, rel=0.1 if size > 1_000 else 0.25)


@pytest.mark.parametrize("seed", range(5))
def test_the_memory_of_pending_tasks_is_exact_after_each_step(seed):
    """Also if the buffer is never empty, and an id is spelled in two ways."""
    choice = random.Random(seed)
    buffer = Buffer(30, normalize=lower_ids, max_bytes=MIB)
    batch = []
    for _ in range(2_000):
        message_id = f"{choice.randrange(40):032x}"
        text = choice.choice([None, None, "x" * choice.randrange(30_000)])
        status = choice.choice(list(Status))
        buffer.queue.push(
            make_transition(
                status,
                at=START + choice.randrange(5),
                message_id=choice.choice([message_id, message_id.upper()]),
                **({} if text is None else {"result": text}),
            )
        )
        if choice.random() < 0.5:
            buffer.coalesce()
        if choice.random() < 0.2:
            buffer.requeue(batch)
            batch = buffer.pop_batch(choice.randrange(1, 5))
        assert buffer._pending_bytes == sum(p.memory for p in buffer._pending.values())


def test_exactly_the_limits_are_allowed():
    """Nothing is dropped before a limit is exceeded, and then one message only."""
    first, second, third = (make_transition(message_id=make_id(n)) for n in (1, 2, 3))
    size = pushed(first, second).memory

    by_size = pushed(first, second, max_bytes=size)
    assert (by_size.dropped, by_size.pending_count, by_size.exceeded_setting) == (0, 2, "")
    by_number = pushed(first, second, max_pending=2)
    assert (by_number.dropped, by_number.pending_count, by_number.exceeded_setting) == (0, 2, "")

    for buffer, setting in [(by_size, "MAX_PENDING_BYTES"), (by_number, "MAX_PENDING")]:
        buffer.queue.push(third)
        buffer.coalesce()
        assert (buffer.dropped, buffer.pending_count, buffer.exceeded_setting) == (1, 2, setting)


@pytest.mark.parametrize(
    ("messages", "text_bytes", "expected"),
    [(0, 0, True), (5, 0, True), (6, 0, False), (1, MIB // 2 - 1_000, True), (1, MIB // 2, False)],
)
def test_half_empty_is_at_most_half_of_both_limits(messages, text_bytes, expected):
    """By messages and by bytes; only then is the end of an overflow logged."""
    texts = {"result": "x" * text_bytes} if text_bytes else {}
    transitions = [make_transition(message_id=make_id(n), **texts) for n in range(messages)]
    buffer = pushed(*transitions, max_pending=10, max_bytes=MIB)

    assert buffer.is_half_empty is expected


def test_a_transition_that_can_not_be_normalized_changes_nothing():
    """Of two with an equal rank: the one that is pending stays."""
    first, second = (make_transition(at=START, queue_name=name) for name in ("a", "b"))
    buffer = Buffer(10, normalize=lambda batch: [None if t is second else t for t in batch])
    for transition in (first, second):
        buffer.queue.push(transition)
    buffer.coalesce()

    (pending,) = buffer.pop_batch(MANY)
    assert pending.latest is first


def test_a_history_takes_memory():
    """Each rank that is remembered counts."""
    transitions = [make_transition(status, error="x") for status in (Status.DELAYED, Status.FAILED)]
    alone, both = make_pending(transitions[1]), make_pending(*transitions)

    assert both.latest is alone.latest
    assert both.memory > alone.memory


def test_a_batch_takes_exactly_what_a_statement_may(monkeypatch):
    """And a message that is too large by itself alone: the database decides about it."""
    transitions = [make_transition(message_id=make_id(n), error="x") for n in (1, 2, 3)]
    size = make_pending(transitions[0]).statement_bytes()

    monkeypatch.setattr(buffer_module, "MAX_BATCH_BYTES", 2 * size)
    assert len(pushed(*transitions).pop_batch(MANY)) == 2
    monkeypatch.setattr(buffer_module, "MAX_BATCH_BYTES", size - 1)
    assert len(pushed(*transitions).pop_batch(MANY)) == 1


def test_a_deferred_transition_is_made_when_it_is_coalesced():
    """It has the values of that moment."""

    class Late(Deferred):
        def to_transition(self):
            return make_transition(Status.RUNNING, progress=7)

    buffer = Buffer(10, normalize=as_they_are)
    deferred = Late()
    buffer.queue.push_deferred(deferred)

    assert buffer.coalesce() == 1
    (pending,) = buffer.pop_batch(MANY)
    assert pending.latest.details.progress == 7


@pytest.mark.parametrize(
    "name",
    [
        *("actor_name", "queue_name", "description", "model_name", "app_name", "tenant"),
        *("error", "traceback", "result", "metadata", "stored_message"),
    ],
)
def test_each_text_counts_in_a_statement(name):
    """With the greatest size that a character may have."""
    (short, long) = (make_pending(make_transition(**{name: "x" * n})) for n in (0, 1_000))

    assert long.statement_bytes() - short.statement_bytes() == 7_000


def test_as_many_messages_are_dropped_as_the_limit_demands():
    """One byte too many costs one more message."""
    transitions = [make_transition(message_id=make_id(n)) for n in (1, 2, 3)]
    size = pushed(transitions[0]).memory

    for limit, messages in [(2 * size, 2), (2 * size - 1, 1)]:
        buffer = pushed(*transitions)
        buffer.set_limits(100, limit)
        buffer.coalesce()
        assert buffer.pending_count == messages


def test_half_of_the_bytes_exactly_is_half_empty():
    """One byte more is not."""
    transition = make_transition()
    size = pushed(transition).memory

    assert pushed(transition, max_bytes=2 * size).is_half_empty
    assert not pushed(transition, max_bytes=2 * size - 1).is_half_empty


def test_newer_texts_count_after_a_failed_flush():
    """They are merged into what is put back."""
    buffer = pushed(make_transition(message_id=make_id(1)))
    failed = buffer.pop_batch(MANY)
    buffer.queue.push(make_large(1))
    buffer.coalesce()
    buffer.requeue(failed)

    assert buffer.memory > 64_000


def test_whoever_waits_for_a_newer_transition_that_can_not_be_normalized_goes_on():
    """What was pushed before it is still written."""
    buffer = pushed(make_transition())
    failed = buffer.pop_batch(MANY)
    latch = awaited(buffer, make_transition(Status.DONE))
    buffer.coalesce()
    buffer._normalize = lambda transitions: [None for _ in transitions]
    buffer.requeue(failed)
    buffer._normalize = as_they_are

    assert is_open(latch)
    (pending,) = buffer.pop_batch(MANY)
    assert pending.latest.status is Status.ENQUEUED


def test_the_limit_that_was_exceeded_is_named():
    """As many items as are allowed may still be too many bytes."""
    buffer = Buffer(1, normalize=as_they_are, max_bytes=200_000)
    for number in range(QUEUE_ITEMS_PER_PENDING):
        buffer.queue.push(make_large(number))

    assert buffer.dropped == 1
    assert buffer.exceeded_setting == "MAX_PENDING_BYTES"
