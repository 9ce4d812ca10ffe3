"""The push, coalescing, and what happens when too much waits."""

import gc
import itertools
import json
import random
import sys
import threading
import tracemalloc

import pytest

from taskstate.conf import Config
from taskstate.transitions import pending
from taskstate.transitions.pending import HISTORY_LENGTH, MAX_BATCH_BYTES, MESSAGE_BYTES
from taskstate.transitions.sanitize import TEXT_LENGTH
from taskstate.transitions.status import Status
from taskstate.transitions.transition import RawFields
from taskstate.utils.sync import Latch
from taskstate.writer import buffer as buffer_module
from taskstate.writer import transition_queue as queue_module
from taskstate.writer.buffer import RAW_PER_MESSAGE, Buffer
from taskstate.writer.transition_queue import TRANSITION_BYTES
from tests.support.factories import START, make_id, make_pending, make_transition
from tests.support.limits import LIMIT_SECONDS

MANY = 10**9


class Report:
    """What makes a transition later."""

    def __init__(self, *texts):
        self.texts = texts
        self.is_dropped = False

    def on_dropped(self):
        self.is_dropped = True


def ids(batch):
    return [entry.latest.message_id for entry in batch]


def as_it_is(transition):
    return transition


def pushed(*transitions, max_pending=100, **bounds):
    buffer = Buffer(max_pending, normalize=as_it_is, **bounds)
    for transition in transitions:
        buffer.push(transition)
    buffer.coalesce()
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

    (entry,) = buffer.pop_batch(MANY)

    assert entry.latest is done
    assert entry.statuses == (Status.ENQUEUED, Status.RUNNING, Status.DONE)


def test_absorb_tells_how_many_transitions_it_took():
    """The statistics count transitions, not messages."""
    buffer = Buffer(10, normalize=as_it_is)
    for _ in range(3):
        buffer.push(make_transition())

    assert len(buffer) == 3
    assert buffer.queue
    assert buffer.coalesce() == 3
    assert not buffer.queue
    assert len(buffer) == buffer.messages == 1


def test_take_gives_the_oldest_first():
    """A message that got a newer fact keeps its place."""
    one, two, three = (make_id(number) for number in (1, 2, 3))
    buffer = pushed(
        *(make_transition(message_id=key) for key in (one, two, three)),
        make_transition(Status.DONE, message_id=one),
    )

    assert ids(buffer.pop_batch(2)) == [one, two]
    assert ids(buffer.pop_batch(2)) == [three]
    assert buffer.pop_batch(2) == []


def test_take_is_bounded_in_bytes():
    """A batch of long texts is shorter; one of the default size always fits."""
    short = [make_transition(message_id=make_id(n)) for n in range(5000)]
    long = [make_transition(message_id=make_id(n), description="x" * 255) for n in range(5000)]

    assert len(pushed(*short, max_pending=MANY).pop_batch(MANY)) == 5000
    batch = pushed(*long, max_pending=MANY).pop_batch(MANY)
    size = batch[0].statement_bytes()
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
    entry = make_pending(make_transition(**texts))
    literal = json.dumps(list(texts.values()), ensure_ascii=False)
    escaped = literal.replace("\\", "\\\\").replace("'", "\\'").replace('"', '\\"')

    assert len(escaped.encode()) + 500 < entry.statement_bytes()


def test_put_back_goes_to_the_front_and_newer_facts_win():
    """A failed flush loses nothing, overwrites nothing newer, and keeps the order."""
    one, two, three = (make_id(number) for number in (1, 2, 3))
    buffer = pushed(*(make_transition(message_id=key) for key in (one, two)))
    failed = buffer.pop_batch(MANY)
    failed[0].maybe_committed = True
    done = make_transition(Status.DONE, message_id=one)
    buffer.push(make_transition(message_id=three))
    buffer.push(done)
    buffer.coalesce()

    buffer.requeue(failed)

    batch = buffer.pop_batch(MANY)
    assert ids(batch) == [one, two, three]
    assert batch[0].latest is done
    assert batch[0].statuses == (Status.ENQUEUED, Status.DONE)
    assert batch[0].maybe_committed
    assert not batch[1].maybe_committed


def test_an_older_fact_that_came_later_does_not_win_over_what_is_put_back():
    """The merge is by rank, not by arrival."""
    done = make_transition(Status.DONE)
    buffer = pushed(done)
    failed = buffer.pop_batch(MANY)
    buffer.push(make_transition(Status.RUNNING))
    buffer.coalesce()

    buffer.requeue(failed)

    assert buffer.pop_batch(MANY)[0].latest is done


def test_the_oldest_messages_are_dropped_and_counted():
    """Beyond MAX_PENDING, at the push and at putting back."""
    keys = [make_id(number) for number in range(5)]
    buffer = pushed(*(make_transition(message_id=key) for key in keys[:3]), max_pending=3)
    assert buffer.dropped == 0
    failed = buffer.pop_batch(MANY)
    for key in keys[3:]:
        buffer.push(make_transition(message_id=key))
    buffer.coalesce()

    buffer.requeue(failed)

    assert buffer.dropped == 2
    assert ids(buffer.pop_batch(MANY)) == keys[2:]


def test_raw_pushes_are_bounded_while_nobody_takes_them():
    """A writer stuck in a dead socket can't cost the worker its memory."""
    buffer = Buffer(2, normalize=as_it_is)
    limit = 2 * RAW_PER_MESSAGE
    for number in range(limit + 3):
        buffer.push(make_transition(message_id=make_id(number)))

    assert len(buffer) == limit
    assert buffer.dropped == 3
    buffer.coalesce()
    assert ids(buffer.pop_batch(MANY)) == [make_id(number) for number in (9, 10)]


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


def test_an_entry_begins_with_one_fact():
    """A batch of one is what SYNCHRONOUS writes."""
    entry = make_pending(make_transition(Status.RUNNING))

    assert entry.statuses == (Status.RUNNING,)


# Facts that somebody waits for.


def is_open(latch):
    return latch.wait(0)


def awaited(buffer, transition):
    latch = Latch()
    buffer.push_awaited(transition, latch)
    return latch


def test_an_awaited_fact_is_merged_like_any_other():
    """It counts as pending before it is coalesced, and its latch stays with its entry."""
    buffer = Buffer(10, normalize=as_it_is)
    buffer.push(make_transition(Status.RUNNING))
    latch = awaited(buffer, make_transition(Status.DONE))
    assert len(buffer) == 2
    assert buffer.queue

    assert buffer.coalesce() == 2
    assert buffer.is_awaited
    (entry,) = buffer.pop_batch(MANY)

    assert entry.latest.status is Status.DONE
    assert not buffer.is_awaited
    assert not is_open(latch)
    entry.resolve()
    assert is_open(latch)


def test_an_awaited_fact_comes_with_what_its_thread_pushed_before():
    """Though both are pushed in the middle of an coalesce: "running" isn't left behind, to lose to
    a "done" that is told without it."""

    def push_in_between(transition):
        if transition.message_id == make_id(1):
            buffer.push(make_transition(Status.RUNNING, message_id=make_id(2)))
            awaited(buffer, make_transition(Status.DONE, message_id=make_id(2)))
        return transition

    buffer = Buffer(100, normalize=push_in_between)
    buffer.push(make_transition(message_id=make_id(1)))
    found = []
    for _ in range(2):
        buffer.coalesce()
        found += [entry.statuses for entry in buffer.pop_batch(MANY)]

    assert found == [(Status.ENQUEUED,), (Status.RUNNING, Status.DONE)]


def fail(transition):
    raise MemoryError


def test_nobody_waits_for_a_fact_that_can_not_be_merged(monkeypatch):
    """Whatever happens to it: nobody else would let them go."""
    monkeypatch.setattr(buffer_module, "PendingTask", fail)
    buffer = Buffer(max_pending=10, normalize=as_it_is)
    latch = awaited(buffer, make_transition(Status.DONE))
    with pytest.raises(MemoryError):
        buffer.coalesce()

    assert latch.wait(0)


def test_a_message_may_be_awaited_twice():
    """Two runs of it at once, after a crash: both are let go, even if a write failed between."""
    buffer = Buffer(10, normalize=as_it_is)
    first = awaited(buffer, make_transition(Status.DONE))
    buffer.coalesce()
    batch = buffer.pop_batch(MANY)
    second = awaited(buffer, make_transition(Status.DONE, stamp=2))
    buffer.coalesce()
    buffer.requeue(batch)
    assert buffer.is_awaited

    (entry,) = buffer.pop_batch(MANY)
    entry.resolve()

    assert is_open(first)
    assert is_open(second)


def test_what_is_put_back_is_still_awaited():
    """A failed write lets nobody go."""
    buffer = Buffer(10, normalize=as_it_is)
    latch = awaited(buffer, make_transition(Status.DONE))
    buffer.coalesce()
    buffer.requeue(buffer.pop_batch(MANY))

    assert buffer.is_awaited
    assert not is_open(latch)


def test_an_error_while_a_batch_is_normalized_loses_nothing():
    """It stays pending, whole, and awaited."""
    buffer = Buffer(10, normalize=as_it_is)
    buffer.push(make_transition(message_id=make_id(1)))
    latch = awaited(buffer, make_transition(Status.DONE, message_id=make_id(2)))
    buffer.coalesce()
    buffer._normalize = fail
    with pytest.raises(MemoryError):
        buffer.pop_batch(MANY)
    buffer._normalize = as_it_is

    assert not is_open(latch)
    assert ids(buffer.pop_batch(MANY)) == [make_id(1), make_id(2)]


def test_a_message_without_a_valid_id_takes_no_room():
    """It can never be written, so it must not make others wait, or push them out."""
    buffer = Buffer(2, normalize=lambda t: t if t.message_id.count("-") == 4 else None)
    buffer.push(make_transition(message_id=make_id(1)))
    for number in range(5):
        buffer.push(make_transition(message_id=f"job-{number}"))
    latch = awaited(buffer, make_transition(Status.DONE, message_id="job-9"))

    assert buffer.coalesce() == 1
    assert is_open(latch)
    assert not buffer.is_awaited
    assert (len(buffer), buffer.dropped) == (1, 0)


def test_raw_names_count_and_normalized_ones_are_shared():
    """A worker decodes new strings for each message; normalized, all messages share them."""
    raw, normalized = (make_transition(message_id=make_id(n), actor_name="x" * 900) for n in (1, 2))
    raw = raw._replace(fields=RawFields(*raw.fields))
    buffer = pushed(raw)

    assert buffer.memory > pushed(normalized).memory + 900


def test_only_the_latest_transition_is_normalized():
    """Of three transitions of a message, one is written."""
    normalized = []
    buffer = Buffer(10, normalize=lambda transition: normalized.append(transition) or transition)
    for status in (Status.ENQUEUED, Status.RUNNING, Status.DONE):
        buffer.push(make_transition(status))
    buffer.coalesce()
    buffer.pop_batch(MANY)

    assert [transition.status for transition in normalized] == ["done"]


def test_a_batch_holds_a_message_once_however_its_id_is_spelled():
    """A statement can't update a row twice."""
    canonical, upper = (
        make_transition(message_id="ab" * 16),
        make_transition(Status.DONE, message_id="AB" * 16),
    )
    buffer = Buffer(10, normalize=lower_id)
    latch = awaited(buffer, upper)
    buffer.push(canonical)
    buffer.coalesce()

    (pending,) = buffer.pop_batch(MANY)
    assert pending.statuses == (Status.ENQUEUED, Status.DONE)
    pending.resolve()
    assert is_open(latch)


def lower_id(transition):
    fields = transition.fields
    return transition._replace(fields=fields._replace(message_id=fields.message_id.lower()))


def test_transitions_of_equal_rank_are_compared_as_they_are_written():
    """As the databases would: by their normalized fields."""
    names = {"x": "b", "y": "a"}  # The greater one is the smaller one as it came.
    first, second = make_transition(queue_name="x"), make_transition(queue_name="y")

    def normalize(transition):
        name = transition.fields.queue_name
        fields = transition.fields._replace(queue_name=names.get(name, name))
        return transition._replace(fields=fields)

    for pair in ([first, second], [second, first]):
        buffer = Buffer(10, normalize=normalize)
        for transition in pair:
            buffer.push(transition)
        buffer.coalesce()
        (pending,) = buffer.pop_batch(MANY)
        assert pending.latest.fields.queue_name == "b"


def test_who_waits_for_what_can_not_be_tracked_is_let_go():
    """There will never be a row."""
    buffer = Buffer(10, normalize=lambda transition: None)
    latch = awaited(buffer, make_transition(Status.DONE))

    buffer.coalesce()
    assert buffer.pop_batch(MANY) == []
    assert is_open(latch)
    assert not buffer.is_awaited


def test_what_is_awaited_is_never_dropped():
    """The message would be acknowledged without its state: others go first."""
    buffer = Buffer(2, normalize=as_it_is)
    waiters = [awaited(buffer, make_transition(message_id=make_id(n))) for n in range(3)]
    for number in range(3, 6):
        buffer.push(make_transition(message_id=make_id(number)))
    buffer.coalesce()

    assert ids(buffer.pop_batch(MANY)) == [make_id(n) for n in range(3)]
    assert buffer.dropped == 3
    assert not any(map(is_open, waiters))


def test_it_knows_what_waits_longest():
    """Among entries, what isn't coalesced yet, and what is awaited; a newer fact about the same
    message doesn't make it younger, and what makes a fact later has no time so far."""
    buffer = Buffer(10, normalize=as_it_is)
    assert buffer.oldest is None
    buffer.push_awaited(make_transition(message_id=make_id(1), happened_at=7.0), Latch())
    assert buffer.oldest == 7.0
    report = Report()
    buffer.push_deferred(report)
    buffer.push(make_transition(message_id=make_id(2), happened_at=5.0))
    assert buffer.oldest == 5.0
    buffer.queue._items.popleft()
    buffer.coalesce()
    buffer.push(make_transition(Status.RUNNING, message_id=make_id(2), happened_at=9.0))
    buffer.coalesce()
    assert buffer.oldest == 5.0

    batch = buffer.pop_batch(1)
    assert buffer.oldest == 7.0
    buffer.requeue(batch)
    assert buffer.oldest == 5.0
    buffer.pop_batch(MANY)
    assert buffer.oldest is None


# The bound in bytes.

MIB = 1024**2


def make_large(number, status=Status.DONE, **texts):
    """Return a transition whose texts are its own, of about 64 kB."""
    texts = texts or {"result": f"{number:064000}"}
    return make_transition(status, message_id=make_id(number), **texts)


def test_the_oldest_messages_beyond_the_bytes_are_dropped():
    """As many as must be, and no more."""
    buffer = pushed(*map(make_large, range(10)), max_bytes=MIB)
    assert (buffer.dropped, buffer.messages) == (0, 10)
    for number in range(10, 40):
        buffer.push(make_large(number))
        buffer.coalesce()

    left = buffer.messages
    assert buffer.dropped == 40 - left
    assert buffer.exceeded == "MAX_PENDING_BYTES"
    assert MIB - 65_000 < buffer.memory <= MIB
    assert ids(buffer.pop_batch(MANY)) == [make_id(number) for number in range(40 - left, 40)]
    assert buffer.memory == 0


def test_raw_pushes_are_bounded_in_bytes_while_nobody_takes_them():
    """Large ones and small ones together: the oldest go, until the rest fits."""
    buffer = Buffer(MANY, normalize=as_it_is, max_bytes=MIB)
    small = MIB // 2 // TRANSITION_BYTES
    for number in range(small):
        buffer.push(make_transition(message_id=make_id(number)))
    for number in range(small, small + 8):
        buffer.push(make_large(number))
    assert buffer.dropped == 0

    for number in range(small + 8, small + 40):
        buffer.push(make_large(number))
        assert buffer.memory <= MIB

    left = len(buffer)
    assert left == MIB // 65_000
    assert buffer.dropped == small + 40 - left
    assert buffer.exceeded == "MAX_PENDING_BYTES"
    for number in range(small):
        buffer.push(make_transition(message_id=make_id(number)))
        assert buffer.memory <= MIB
    buffer.coalesce()
    assert not buffer.queue._units


def test_what_is_not_coalesced_gets_the_room_that_is_left():
    """But at least a half: the thread that pushes can't drop what the writer has taken."""

    def push_until_it_drops(buffer):
        before = buffer.dropped
        for pushes in itertools.count():
            buffer.push(make_transition())
            if buffer.dropped > before:
                return pushes * TRANSITION_BYTES
        raise AssertionError

    free = Buffer(MANY, normalize=as_it_is, max_bytes=MIB)
    partly = pushed(*map(make_large, range(5)), max_pending=MANY, max_bytes=MIB)
    full = pushed(*map(make_large, range(16)), max_pending=MANY, max_bytes=MIB)

    assert push_until_it_drops(free) == pytest.approx(MIB, rel=0.01)
    assert push_until_it_drops(partly) == pytest.approx(MIB - 5 * 65_000, rel=0.01)
    assert push_until_it_drops(full) == pytest.approx(MIB // 2, rel=0.01)
    full.pop_batch(12)
    assert push_until_it_drops(full) == pytest.approx(12 * 65_000 - MIB // 2, abs=25_000)


def test_the_writer_is_woken_before_the_room_is_used_up():
    """While it takes a nap in an outage, say: it drops the oldest, a push only what just came."""
    buffer = pushed(*map(make_large, range(16)), max_pending=MANY, max_bytes=MIB)
    woken = []

    def coalesce():
        woken.append(len(buffer.queue._items))
        buffer.coalesce()

    buffer.queue.wake_writer = coalesce
    dropped = buffer.dropped
    for number in range(16, 32):
        buffer.push(make_large(number))
    buffer.coalesce()

    assert set(woken) == {5}
    assert buffer.dropped == dropped + 16
    assert ids(buffer.pop_batch(MANY))[-1] == make_id(31)


def test_the_newest_transition_stays_however_large_it_is():
    """With the least bound, and the least part of it."""
    buffer = pushed(*map(make_large, range(16)), max_bytes=MIB)
    text = "\U0001f600" * 64_000
    buffer.push(make_large(99, result=text, stored_message=text))

    assert len(buffer.queue._items) == 1
    buffer.coalesce()
    assert ids(buffer.pop_batch(MANY))[-1] == make_id(99)


def test_what_is_put_back_is_bounded_in_bytes():
    """And nobody who waits is forgotten for it."""
    buffer = Buffer(MANY, normalize=as_it_is, max_bytes=MIB)
    latch = awaited(buffer, make_large(0))
    for number in range(1, 12):
        buffer.push(make_large(number))
    buffer.coalesce()
    failed = buffer.pop_batch(MANY)
    for number in range(12, 24):
        buffer.push(make_large(number))
    buffer.coalesce()
    assert buffer.dropped == 0

    buffer.requeue(failed)

    assert buffer.memory <= MIB
    kept = ids(buffer.pop_batch(MANY))
    kept.remove(make_id(0))
    assert kept == [make_id(number) for number in range(24 - len(kept), 24)]
    assert buffer.dropped == 23 - len(kept)
    assert not is_open(latch)


def test_only_the_fact_that_wins_counts():
    """A traceback of an attempt that was retried goes with it."""
    failed = make_large(1, Status.DELAYED, traceback="x" * 8_000, error="Oops")
    buffer = pushed(failed)
    assert buffer.memory > 8_000
    buffer.push(make_large(1, Status.DONE, progress=1.0))
    buffer.coalesce()

    assert MESSAGE_BYTES < buffer.memory < MESSAGE_BYTES + 1_000


@pytest.mark.parametrize(
    ("character", "size"), [("x", 1), ("\xe9", 1), ("\u044f", 2), ("\U0001f600", 4)]
)
def test_a_character_counts_what_it_takes(character, size):
    """1, 2 or 4 bytes, in each text that may be long."""
    texts = {"metadata": 2_000, "stored_message": 9_000, "traceback": 8_000, "result": 60_000}
    buffer = pushed(make_transition(**{name: character * n for name, n in texts.items()}))

    assert buffer.memory == pytest.approx(size * sum(texts.values()) + MESSAGE_BYTES, rel=0.02)


@pytest.mark.parametrize("size", [0, 300, 5_000, 60_000])
@pytest.mark.parametrize("are_coalesced", [False, True])
def test_what_is_counted_is_what_is_taken(size, are_coalesced):
    """As Python itself counts it, and more exactly the larger a message is."""
    texts = {"actor_name": "act", "description": "Export of report", "model_name": "Report"}
    if size:
        texts["result"] = "x" * size
    buffer = Buffer(MANY, normalize=as_it_is)
    gc.collect()
    tracemalloc.start()
    for number in range(200):
        own = {name: f"{number:04}{text}" for name, text in texts.items()}
        moments = {"at": 10**12 + number, "started_at": 10**12 + number}
        buffer.push(make_transition(message_id=make_id(number), **moments, **own))
    if are_coalesced:
        buffer.coalesce()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert buffer.memory == pytest.approx(taken, rel=0.1 if size > 1_000 else 0.25)


def test_a_report_is_not_kept():
    """It is a run, which may hold a large result: once that is gone, nothing is to be reported."""
    buffer = Buffer(MANY, normalize=as_it_is)
    buffer.push_deferred(Report("x" * 64_000))
    assert buffer.memory == TRANSITION_BYTES

    assert buffer.queue._items[0]() is None
    buffer.queue.notify_dropped()
    assert buffer.coalesce() == 0
    assert len(buffer) == buffer.memory == 0


def test_a_report_that_is_dropped_is_told_so():
    """By the bound in bytes as well."""
    buffer = Buffer(MANY, normalize=as_it_is, max_bytes=MIB)
    report = Report()
    buffer.push_deferred(report)
    for number in range(20):
        buffer.push(make_large(number))

    assert report.is_dropped


@pytest.fixture
def fine_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Interrupted(BaseException):
    """As Dramatiq's exceptions for threads."""


class Pusher(threading.Thread):
    """Pushes, and is interrupted before a bytecode of the buffer's, now here, now there."""

    def __init__(self, buffer, seed, pushes):
        super().__init__(daemon=True)
        self.buffer = buffer
        self.random = random.Random(seed)
        self.pushes = pushes
        self.interrupted = self.left = 0

    def run(self):
        for number in range(self.pushes):
            is_large = self.random.random() < 0.5
            transition = make_large(number % 50) if is_large else make_transition()
            self.left = self.random.randint(1, 80)
            sys.settrace(self.trace)
            try:
                self.buffer.push(transition)
            except Interrupted:
                self.interrupted += 1
            finally:
                sys.settrace(None)

    def trace(self, frame, event, argument):
        if frame.f_code.co_filename not in {queue_module.__file__, pending.__file__}:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self.step

    def step(self, frame, event, argument):
        if event == "opcode":
            self.left -= 1
            if self.left == 0:
                raise Interrupted
        return self.step


@pytest.mark.parametrize("is_stuck", [False, True], ids=["", "stuck"])
@pytest.mark.parametrize("max_bytes", [MIB, 256 * MIB])
def test_no_count_drifts(max_bytes, is_stuck, fine_switches):
    """Whatever is raised in the threads that push, and however they take turns with the writer:
    what is counted in the end is what is there, and with nothing there it is nothing."""
    buffer = Buffer(MANY, normalize=as_it_is, max_bytes=max_bytes)
    pushers = [Pusher(buffer, seed, pushes=400) for seed in range(4)]
    for pusher in pushers:
        pusher.start()
    for pusher in pushers if is_stuck else ():
        pusher.join(LIMIT_SECONDS)
    for turn in itertools.count():
        are_done = not any(pusher.is_alive() for pusher in pushers)
        buffer.coalesce()
        batch = buffer.pop_batch(10)
        if turn % 2:
            buffer.requeue(batch)
        if are_done:
            break
    assert sum(pusher.interrupted for pusher in pushers) > 200

    buffer.push(make_transition())
    buffer.coalesce()

    assert not buffer.queue._units
    assert buffer.queue._limit == buffer.queue._update_limit()
    left = list(buffer._pending.values())
    assert buffer.memory == sum(entry.memory for entry in left)
    for entry in left:
        counted = entry.memory
        entry._measure()
        assert counted == pytest.approx(entry.memory, abs=500)
        entry.memory = counted
    while buffer.pop_batch(MANY):
        pass
    assert buffer.memory == 0


@pytest.mark.parametrize("seed", range(5))
def test_the_memory_of_pending_tasks_is_exact_after_each_step(seed):
    """Also where the buffer is never empty, and an id is spelled in two ways."""
    choice = random.Random(seed)
    buffer = Buffer(30, normalize=lower_id, max_bytes=MIB)
    batch = []
    for _ in range(2_000):
        message_id = f"{choice.randrange(40):032x}"
        text = choice.choice([None, None, "x" * choice.randrange(30_000)])
        status = choice.choice(list(Status))
        buffer.push(
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


def push_uncounted(buffer, transition):
    """Push, and be interrupted before the texts are counted."""
    count, buffer.queue._count_units = buffer.queue._count_units, lambda transition: 1 / 0
    with pytest.raises(ZeroDivisionError):
        buffer.push(transition)
    buffer.queue._count_units = count


def test_texts_that_were_not_counted_leave_the_others_counted(monkeypatch):
    """Those that are pushed while the writer coalesces, above all: it takes as much out of the
    count as was counted before."""

    merge = Buffer._merge

    def push_one_more(buffer, transition):
        if transition.message_id == make_id(0):
            buffer.push(make_large(2))
        return merge(buffer, transition)

    monkeypatch.setattr(Buffer, "_merge", push_one_more)
    buffer = Buffer(MANY, normalize=as_it_is)
    push_uncounted(buffer, make_large(0))
    buffer.push(make_large(1))
    buffer.coalesce()

    assert len(buffer.queue._items) == 1
    assert len(buffer.queue._units) * 512 == pytest.approx(64_000, rel=0.01)
    buffer.coalesce()
    assert not buffer.queue._units


def test_texts_that_were_counted_too_long_are_forgotten():
    """An exception came after a transition was dropped, and before its texts were taken out."""
    buffer = Buffer(MANY, normalize=as_it_is)
    buffer.push(make_large(0))
    buffer.queue._items.popleft()
    assert buffer.memory == 0
    buffer.push(make_transition())
    buffer.coalesce()

    assert not buffer.queue._units


# The limits themselves.


def test_exactly_the_limits_are_allowed():
    """Nothing is dropped before a limit is exceeded, and then one message only."""
    first, second, third = (make_transition(message_id=make_id(n)) for n in (1, 2, 3))
    size = pushed(first, second).memory

    by_size = pushed(first, second, max_bytes=size)
    assert (by_size.dropped, by_size.messages, by_size.exceeded) == (0, 2, "")
    by_number = pushed(first, second, max_pending=2)
    assert (by_number.dropped, by_number.messages, by_number.exceeded) == (0, 2, "")

    for buffer, setting in [(by_size, "MAX_PENDING_BYTES"), (by_number, "MAX_PENDING")]:
        buffer.push(third)
        buffer.coalesce()
        assert (buffer.dropped, buffer.messages, buffer.exceeded) == (1, 2, setting)


@pytest.mark.parametrize(
    ("messages", "text_bytes", "expected"),
    [(0, 0, True), (5, 0, True), (6, 0, False), (1, MIB // 2 - 1_000, True), (1, MIB // 2, False)],
)
def test_half_empty_is_at_most_half_of_both_limits(messages, text_bytes, expected):
    """By messages and by bytes; only then is the end of an overflow logged."""
    texts = {"result": "x" * text_bytes} if text_bytes else {}
    facts = [make_transition(message_id=make_id(n), **texts) for n in range(messages)]
    buffer = pushed(*facts, max_pending=10, max_bytes=MIB)

    assert buffer.is_half_empty is expected


def test_a_transition_that_can_not_be_normalized_changes_nothing():
    """Of two with an equal rank: the one that is pending stays."""
    first, second = (make_transition(at=START, queue_name=name) for name in ("a", "b"))
    buffer = Buffer(10, normalize=lambda t: None if t is second else t)
    for transition in (first, second):
        buffer.push(transition)
    buffer.coalesce()

    (entry,) = buffer.pop_batch(MANY)
    assert entry.latest is first


def test_a_history_takes_memory():
    """Each rank that is remembered counts."""
    facts = [make_transition(status, error="x") for status in (Status.DELAYED, Status.FAILED)]
    alone, both = make_pending(facts[1]), make_pending(*facts)

    assert both.latest is alone.latest
    assert both.memory > alone.memory


def test_a_batch_takes_exactly_what_a_statement_may(monkeypatch):
    """And a message that is too large by itself alone: the database decides about it."""
    facts = [make_transition(message_id=make_id(n), error="x") for n in (1, 2, 3)]
    size = make_pending(facts[0]).statement_bytes()

    monkeypatch.setattr(buffer_module, "MAX_BATCH_BYTES", 2 * size)
    assert len(pushed(*facts).pop_batch(MANY)) == 2
    monkeypatch.setattr(buffer_module, "MAX_BATCH_BYTES", size - 1)
    assert len(pushed(*facts).pop_batch(MANY)) == 1


def test_a_deferred_transition_is_made_when_it_is_coalesced():
    """It has the values of that moment."""

    class Deferred(Report):
        def to_transition(self):
            return progress(7)

    buffer = Buffer(10, normalize=as_it_is)
    deferred = Deferred()
    buffer.push_deferred(deferred)

    assert buffer.coalesce() == 1
    (entry,) = buffer.pop_batch(MANY)
    assert entry.latest.details.progress == 7


def test_without_any_room_only_the_newest_transition_stays():
    """A push never drops what it has just added."""
    buffer = Buffer(MANY, normalize=as_it_is, max_bytes=0)
    for number in (1, 2, 3):
        buffer.push(make_transition(message_id=make_id(number)))

        assert len(buffer.queue) == 1
        assert buffer.dropped == number - 1


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
    facts = [make_transition(message_id=make_id(n)) for n in (1, 2, 3)]
    size = pushed(facts[0]).memory

    assert pushed(*facts, max_bytes=2 * size).messages == 2
    assert pushed(*facts, max_bytes=2 * size - 1).messages == 1


@pytest.mark.parametrize("name", ["metadata", "stored_message", "result"])
def test_each_large_text_counts_before_it_is_coalesced(name):
    """Transitions may have one of them alone."""
    buffer = Buffer(MANY, normalize=as_it_is)
    buffer.push(make_transition(**{name: "x" * 64_000}))

    assert buffer.memory == pytest.approx(64_000 + TRANSITION_BYTES, rel=0.02)


def test_texts_that_were_counted_too_long_leave_newer_ones_counted(monkeypatch):
    """Those that are pushed while the writer coalesces."""

    merge = Buffer._merge

    def push_one_more(buffer, transition):
        if transition.message_id == make_id(1):
            buffer.push(make_large(2))
        return merge(buffer, transition)

    monkeypatch.setattr(Buffer, "_merge", push_one_more)
    buffer = Buffer(MANY, normalize=as_it_is)
    for number in (0, 1):
        buffer.push(make_large(number))
    buffer.queue._items.popleft()
    buffer.coalesce()

    assert len(buffer.queue._items) == 1
    assert len(buffer.queue._units) * 512 == pytest.approx(64_000, rel=0.01)


def test_half_of_the_bytes_exactly_is_half_empty():
    """One byte more is not."""
    fact = make_transition()
    size = pushed(fact).memory

    assert pushed(fact, max_bytes=2 * size).is_half_empty
    assert not pushed(fact, max_bytes=2 * size - 1).is_half_empty


def test_newer_texts_count_after_a_failed_flush():
    """They are merged into what is put back."""
    buffer = pushed(make_transition(message_id=make_id(1)))
    failed = buffer.pop_batch(MANY)
    buffer.push(make_large(1))
    buffer.coalesce()
    buffer.requeue(failed)

    assert buffer.memory > 64_000


def test_whoever_waits_for_a_newer_transition_that_can_not_be_normalized_goes_on():
    """What was pushed before it is still written."""
    buffer = pushed(make_transition())
    failed = buffer.pop_batch(MANY)
    latch = awaited(buffer, make_transition(Status.DONE))
    buffer.coalesce()
    buffer._normalize = lambda transition: None
    buffer.requeue(failed)
    buffer._normalize = as_it_is

    assert is_open(latch)
    (entry,) = buffer.pop_batch(MANY)
    assert entry.latest.status is Status.ENQUEUED


def test_deferred_transitions_are_bounded_too():
    """Each one that is dropped is told so; those that wait are told after a fork."""
    buffer = Buffer(2, normalize=as_it_is)
    limit = 2 * RAW_PER_MESSAGE
    reports = [Report() for _ in range(limit + 3)]
    for report in reports:
        buffer.push_deferred(report)

    assert (len(buffer), buffer.dropped) == (limit, 3)
    assert [report.is_dropped for report in reports] == [True] * 3 + [False] * limit
    buffer.queue.notify_dropped()
    assert all(report.is_dropped for report in reports)


def test_the_limit_that_was_exceeded_is_named():
    """As many items as are allowed may still be too many bytes."""
    buffer = Buffer(1, normalize=as_it_is, max_bytes=200_000)
    for number in range(RAW_PER_MESSAGE):
        buffer.push(make_large(number))

    assert buffer.dropped == 1
    assert buffer.exceeded == "MAX_PENDING_BYTES"
