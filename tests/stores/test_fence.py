"""The fence of a clear, whatever time the database's clock shows."""

import math
import time

import pytest
from django.db import OperationalError, connections

from taskstate.models import Task, Watermark
from taskstate.stores import clock as clock_module
from taskstate.stores import fence as fence_module
from taskstate.stores.fence import Fence, _fence_of, _Reading, raise_fence
from taskstate.transitions.status import Status
from tests.support.factories import make_id, make_pending, make_transition
from tests.support.limits import LIMIT_SECONDS
from tests.support.stores import STORES

HOUR = 3600.0


class Clock:
    """Monotonic time that a test advances: that of a store, and of the transitions."""

    def __init__(self):
        self.now = 10 * HOUR

    def __call__(self):
        return self.now

    def happen(self, *numbers, status=Status.ENQUEUED, after=1.0):
        """Let a state of each message happen, so many seconds later."""
        self.now += after
        return [
            make_pending(make_transition(status, message_id=make_id(n), happened_at=self.now))
            for n in numbers
        ]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=STORES)
def make_store(request, database, clock):
    return lambda: request.param(clock)


@pytest.fixture
def set_clock(database, monkeypatch):
    """Set the clock of the database, for our statements: so many seconds from what it is."""
    vendor = connections[database].vendor
    right = clock_module._CURRENT_TIME[vendor]

    def set_clock(seconds):
        wrong = f"({right} + {int(seconds * 1_000_000)})"
        monkeypatch.setitem(clock_module._CURRENT_TIME, vendor, wrong)

    return set_clock


def clear(alias):
    assert raise_fence(alias, LIMIT_SECONDS)
    Task.objects.all().delete()


def numbers():
    return sorted(task.message_id.int for task in Task.objects.all())


def test_a_clock_behind_the_last_clear_loses_nothing_that_follows(
    make_store, database, clock, set_clock
):
    """What was pending at the clear stays dead, and counts as unchanged; then all is written, batch
    by batch, for as long as the clock is behind."""
    store = make_store()
    store.write(clock.happen(0))
    pending = clock.happen(1, 2)
    clear(database)
    set_clock(-HOUR)

    written = store.write(pending)
    assert (written.rows, written.unchanged) == (0, 2)
    for batch in range(6):
        rows = range(10 * batch, 10 * batch + 10)
        assert store.write(clock.happen(*rows)).rows == 10
    assert numbers() == list(range(60))
    assert store.write(pending).rows == 0


def test_a_clock_that_is_set_back_after_a_clear(make_store, database, clock, set_clock):
    """A store that knows the clear keeps to what it knows of it."""
    store = make_store()
    pending = clock.happen(1)
    clear(database)
    clock.now += 60
    store.write([])
    store.write(clock.happen(2))
    set_clock(-HOUR)

    assert store.write([*pending, *clock.happen(3)]).rows == 1
    assert numbers() == [2, 3]


def test_a_process_that_begins_while_the_clock_is_behind(make_store, database, clock, set_clock):
    """It can't know when the clear was, and holds nothing that is older, as a rule: its first
    states are written like all others."""
    clear(database)
    set_clock(-HOUR)
    store = make_store()

    assert store.write(clock.happen(1, 2)).rows == 2
    assert store.write(clock.happen(1, status=Status.DONE)).rows == 1
    assert numbers() == [1, 2]


def test_another_clear_while_the_clock_is_behind(make_store, database, clock, set_clock):
    """Each is final for what was pending, and for nothing that follows."""
    clear(database)
    set_clock(-HOUR)
    store = make_store()
    store.write(clock.happen(1))
    for number in (2, 4):
        pending = clock.happen(number)
        clear(database)
        assert store.write(pending).rows == 0
        assert store.write(clock.happen(number + 1)).rows == 1
        assert numbers() == [number + 1]


def test_a_clock_that_is_set_forward_after_a_clear(make_store, database, clock, set_clock):
    """The clear seems to be older than it is: not older than the last time it wasn't there yet."""
    store = make_store()
    pending = clock.happen(1, after=0)
    store.write(clock.happen(2))
    clear(database)
    set_clock(HOUR)

    written = store.write([*pending, *clock.happen(3)])

    assert (written.rows, written.unchanged) == (1, 1)
    assert numbers() == [3]


def test_a_clear_that_a_failover_has_lost(make_store, database, clock, set_clock):
    """The other server has an older one, and a clock that is behind even that: it is no new one."""
    store = make_store()
    clear(database)
    older = Watermark.objects.using(database).get().cleared_at
    clear(database)
    store.write([])
    store.write(clock.happen(1))
    Watermark.objects.using(database).update(cleared_at=older)
    set_clock(-HOUR)

    assert store.write(clock.happen(2, after=0.5)).rows == 1
    assert numbers() == [1, 2]


def reading(version, age):
    return _Reading(version, age, asked_at=99.0, answered_at=100.0)


KNOWN = Fence(watermark=10, cleared_at=20.0, seen_at=50.0)


@pytest.mark.parametrize(
    ("version", "age", "known", "cleared_at"),
    [
        (11, 30.0, None, 70.0),
        (11, 30.0, KNOWN, 70.0),
        (11, 70.0, KNOWN, 50.0),  # The clock was set forward: it was not there at 50.
        (11, 0.0, KNOWN, 100.0),
        (11, -0.001, KNOWN, 100.0),  # The marks of two clears in a millisecond.
        (11, -0.001, None, 100.0),
        (11, -5.0, KNOWN, 100.0),
        (11, -5.0, None, -math.inf),
        (10, 1.0, KNOWN, 20.0),
        (10, -5.0, KNOWN, 20.0),
        (9, 90.0, KNOWN, 10.0),
        (9, 1.0, KNOWN, 20.0),
        (9, -5.0, KNOWN, 20.0),
    ],
)
def test_the_time_of_a_clear(version, age, known, cleared_at):
    """By its age, limited by the order of the marks."""
    assert _fence_of(reading(version, age), known) == Fence(version, cleared_at, None, seen_at=99.0)


def test_a_process_whose_clock_is_right_needs_no_history(make_store, database):
    """The age alone shows what happened before, here by the real clocks."""
    store = make_store()
    store._clock = time.monotonic
    old = make_pending(make_transition(message_id=make_id(1)))
    clear(database)
    young = make_transition(message_id=make_id(2), happened_at=time.monotonic() + 1)

    assert store.write([old, make_pending(young)]).rows == 1
    assert numbers() == [2]


@pytest.mark.parametrize(("timeout", "tries"), [(LIMIT_SECONDS, 3), (0, 1)])
def test_a_clear_waits_for_a_flush_as_long_as_it_may(timeout, tries, sqlite, monkeypatch):
    """A flush is inside the fence at the first two tries."""
    tried = []

    def raise_once(alias):
        tried.append(alias)
        if len(tried) < 3:
            raise OperationalError("database is locked")

    monkeypatch.setattr(fence_module, "_raise_once", raise_once)

    assert raise_fence(sqlite, timeout) is (tries == 3)
    assert tried == [sqlite] * tries
