"""What waits to be coalesced: how much of it, and how that is counted."""

import itertools
import random
import sys
import threading

import pytest

from taskstate.transitions import pending as pending_module
from taskstate.writer import transition_queue as queue_module
from taskstate.writer.buffer import QUEUE_ITEMS_PER_PENDING, Buffer
from taskstate.writer.transition_queue import TRANSITION_BYTES
from tests.support.buffers import MANY, MIB, Deferred, as_they_are, ids, make_large, pushed
from tests.support.factories import make_id, make_transition
from tests.support.limits import LIMIT_SECONDS


def test_the_queue_is_limited_while_the_writer_is_stuck():
    """A writer that waits for a dead connection can't use up the worker's memory."""
    buffer = Buffer(2, normalize=as_they_are)
    limit = 2 * QUEUE_ITEMS_PER_PENDING
    for number in range(limit + 3):
        buffer.queue.push(make_transition(message_id=make_id(number)))

    assert len(buffer) == limit
    assert buffer.dropped == 3
    buffer.coalesce()
    assert ids(buffer.pop_batch(MANY)) == [make_id(number) for number in (9, 10)]


def test_the_queue_is_limited_in_bytes_while_the_writer_is_stuck():
    """Large and small transitions count together.  The oldest are dropped until the rest fits."""
    buffer = Buffer(MANY, normalize=as_they_are, max_bytes=MIB)
    small = MIB // 2 // TRANSITION_BYTES
    for number in range(small):
        buffer.queue.push(make_transition(message_id=make_id(number)))
    for number in range(small, small + 8):
        buffer.queue.push(make_large(number))
    assert buffer.dropped == 0

    for number in range(small + 8, small + 40):
        buffer.queue.push(make_large(number))
        assert buffer.memory <= MIB

    left = len(buffer)
    assert left == MIB // 65_000
    assert buffer.dropped == small + 40 - left
    assert buffer.exceeded_setting == "MAX_PENDING_BYTES"
    for number in range(small):
        buffer.queue.push(make_transition(message_id=make_id(number)))
        assert buffer.memory <= MIB
    buffer.coalesce()
    assert not buffer.queue._units


def test_the_queue_may_take_the_memory_that_pending_tasks_leave():
    """It may always take half, since a thread that pushes can't drop pending tasks."""

    def push_until_it_drops(buffer):
        before = buffer.dropped
        for pushes in itertools.count():
            buffer.queue.push(make_transition())
            if buffer.dropped > before:
                return pushes * TRANSITION_BYTES
        raise AssertionError

    free = Buffer(MANY, normalize=as_they_are, max_bytes=MIB)
    partly = pushed(*map(make_large, range(5)), max_pending=MANY, max_bytes=MIB)
    full = pushed(*map(make_large, range(16)), max_pending=MANY, max_bytes=MIB)

    assert push_until_it_drops(free) == pytest.approx(MIB, rel=0.01)
    assert push_until_it_drops(partly) == pytest.approx(MIB - 5 * 65_000, rel=0.01)
    assert push_until_it_drops(full) == pytest.approx(MIB // 2, rel=0.01)
    full.pop_batch(12)
    assert push_until_it_drops(full) == pytest.approx(12 * 65_000 - MIB // 2, abs=25_000)


def test_the_writer_is_woken_before_the_queue_is_full():
    """It may be in a pause, as in an outage.  It drops the oldest tasks, while a push could only
    drop what was just pushed."""
    buffer = pushed(*map(make_large, range(16)), max_pending=MANY, max_bytes=MIB)
    woken = []

    def coalesce():
        woken.append(len(buffer.queue._items))
        buffer.coalesce()

    buffer.queue.wake_writer = coalesce
    dropped = buffer.dropped
    for number in range(16, 32):
        buffer.queue.push(make_large(number))
    buffer.coalesce()

    assert set(woken) == {5}
    assert buffer.dropped == dropped + 16
    assert ids(buffer.pop_batch(MANY))[-1] == make_id(31)


def test_the_newest_transition_is_kept_however_large_it_is():
    """Even with the smallest limit, and the smallest share of it."""
    buffer = pushed(*map(make_large, range(16)), max_bytes=MIB)
    text = "\U0001f600" * 64_000
    buffer.queue.push(make_large(99, result=text, stored_message=text))

    assert len(buffer.queue._items) == 1
    buffer.coalesce()
    assert ids(buffer.pop_batch(MANY))[-1] == make_id(99)


# Deferred transitions.


def test_the_queue_does_not_keep_a_deferred_transition_alive():
    """It is a run, which may hold a large result.  When it is gone, nothing is to be written."""
    buffer = Buffer(MANY, normalize=as_they_are)
    buffer.queue.push_deferred(Deferred("x" * 64_000))
    assert buffer.memory == TRANSITION_BYTES

    assert buffer.queue._items[0]() is None
    buffer.queue.notify_dropped()
    assert buffer.coalesce() == 0
    assert len(buffer) == buffer.memory == 0


def test_a_dropped_deferred_transition_is_notified():
    """Also if the limit in bytes was exceeded."""
    buffer = Buffer(MANY, normalize=as_they_are, max_bytes=MIB)
    deferred = Deferred()
    buffer.queue.push_deferred(deferred)
    for number in range(20):
        buffer.queue.push(make_large(number))

    assert deferred.is_dropped


# Pushes that are interrupted.


@pytest.fixture
def fine_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Interrupted(BaseException):
    """Stands for the exceptions that Dramatiq raises in threads."""


class Pusher(threading.Thread):
    """Pushes, and is interrupted before a random bytecode of the queue."""

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
                self.buffer.queue.push(transition)
            except Interrupted:
                self.interrupted += 1
            finally:
                sys.settrace(None)

    def trace(self, frame, event, argument):
        if frame.f_code.co_filename not in {queue_module.__file__, pending_module.__file__}:
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
def test_the_counted_memory_stays_right_after_interrupted_pushes(
    max_bytes, is_stuck, fine_switches
):
    """Exceptions are raised in the threads that push while the writer works.  In the end, what is
    counted is what is there, and an empty buffer counts as 0."""
    buffer = Buffer(MANY, normalize=as_they_are, max_bytes=max_bytes)
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

    buffer.queue.push(make_transition())
    buffer.coalesce()

    assert not buffer.queue._units
    assert buffer.queue._limit == buffer.queue._update_limit()
    left = list(buffer._pending.values())
    assert buffer.memory == sum(pending.memory for pending in left)
    for pending in left:
        counted = pending.memory
        pending._measure()
        assert counted == pytest.approx(pending.memory, abs=500)
        pending.memory = counted
    while buffer.pop_batch(MANY):
        pass
    assert buffer.memory == 0


def push_uncounted(buffer, transition):
    """Push, and be interrupted before the texts are counted."""
    count, buffer.queue._count_units = buffer.queue._count_units, lambda transition: 1 / 0
    with pytest.raises(ZeroDivisionError):
        buffer.queue.push(transition)
    buffer.queue._count_units = count


def push_while_coalescing(monkeypatch, after):
    """Let another thread push a large transition when the message of this number is coalesced."""
    merge = Buffer._merge

    def push_one_more(buffer, transition):
        if transition.message_id == make_id(after):
            buffer.queue.push(make_large(2))
        return merge(buffer, transition)

    monkeypatch.setattr(Buffer, "_merge", push_one_more)


def test_texts_that_were_not_counted_do_not_affect_the_count_of_others(monkeypatch):
    """In particular those that are pushed while the writer coalesces: it subtracts only what was
    counted before."""
    push_while_coalescing(monkeypatch, after=0)
    buffer = Buffer(MANY, normalize=as_they_are)
    push_uncounted(buffer, make_large(0))
    buffer.queue.push(make_large(1))
    buffer.coalesce()

    assert len(buffer.queue._items) == 1
    assert len(buffer.queue._units) * 512 == pytest.approx(64_000, rel=0.01)
    buffer.coalesce()
    assert not buffer.queue._units


def test_texts_of_a_removed_transition_are_no_longer_counted():
    """An exception was raised after a transition was dropped, and before its texts were
    subtracted."""
    buffer = Buffer(MANY, normalize=as_they_are)
    buffer.queue.push(make_large(0))
    buffer.queue._items.popleft()
    assert buffer.memory == 0
    buffer.queue.push(make_transition())
    buffer.coalesce()

    assert not buffer.queue._units


def test_without_any_room_only_the_newest_transition_stays():
    """A push never drops what it has just added."""
    buffer = Buffer(MANY, normalize=as_they_are, max_bytes=0)
    for number in (1, 2, 3):
        buffer.queue.push(make_transition(message_id=make_id(number)))

        assert len(buffer.queue) == 1
        assert buffer.dropped == number - 1


@pytest.mark.parametrize("name", ["metadata", "stored_message", "result"])
def test_each_large_text_counts_before_it_is_coalesced(name):
    """Transitions may have one of them alone."""
    buffer = Buffer(MANY, normalize=as_they_are)
    buffer.queue.push(make_transition(**{name: "x" * 64_000}))

    assert buffer.memory == pytest.approx(64_000 + TRANSITION_BYTES, rel=0.02)


def test_texts_that_were_counted_too_long_leave_newer_ones_counted(monkeypatch):
    """Those that are pushed while the writer coalesces."""
    push_while_coalescing(monkeypatch, after=1)
    buffer = Buffer(MANY, normalize=as_they_are)
    for number in (0, 1):
        buffer.queue.push(make_large(number))
    buffer.queue._items.popleft()
    buffer.coalesce()

    assert len(buffer.queue._items) == 1
    assert len(buffer.queue._units) * 512 == pytest.approx(64_000, rel=0.01)


def test_deferred_transitions_are_bounded_too():
    """Each one that is dropped is notified; those that wait are notified after a fork."""
    buffer = Buffer(2, normalize=as_they_are)
    limit = 2 * QUEUE_ITEMS_PER_PENDING
    deferred = [Deferred() for _ in range(limit + 3)]
    for each in deferred:
        buffer.queue.push_deferred(each)

    assert (len(buffer), buffer.dropped) == (limit, 3)
    assert [each.is_dropped for each in deferred] == [True] * 3 + [False] * limit
    buffer.queue.notify_dropped()
    assert all(each.is_dropped for each in deferred)


def test_the_writer_is_woken_once_when_enough_waits_to_fill_a_batch():
    """Not by each push: that would cost the hooks more than the writer."""
    buffer = Buffer(MANY, normalize=as_they_are)
    buffer.set_limits(MANY, MIB, batch_size=3)
    wakes = []
    buffer.queue.wake_writer = lambda: wakes.append(len(buffer))
    for _ in range(2):
        for number in range(10):
            buffer.queue.push(make_transition(message_id=make_id(number)))
        buffer.coalesce()
        buffer.pop_batch(MANY)

    assert wakes == [4, 4]


def test_the_writer_is_woken_before_anything_is_dropped():
    """A small limit is reached before a batch is full."""
    buffer = Buffer(2, normalize=as_they_are)
    wakes = []
    buffer.queue.wake_writer = lambda: wakes.append(buffer.dropped)
    for number in range(2 * QUEUE_ITEMS_PER_PENDING + 1):
        buffer.queue.push(make_transition(message_id=make_id(number)))

    assert wakes == [0]
    assert buffer.dropped == 1


def test_the_writer_is_woken_before_the_bytes_are_used_up():
    """Small transitions, too, may take all of a small limit before they fill a batch."""
    buffer = Buffer(MANY, normalize=as_they_are)
    buffer.set_limits(MANY, MIB, batch_size=MANY)
    wakes = []
    buffer.queue.wake_writer = lambda: wakes.append(buffer.dropped)
    for number in range(MIB // TRANSITION_BYTES + 1):
        buffer.queue.push(make_transition(message_id=make_id(number)))

    assert wakes == [0]
    assert buffer.dropped == 1
