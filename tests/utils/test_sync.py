"""Waking a thread."""

import math
import threading

from taskstate.utils.sync import Deadline, Latch, WakeEvent
from tests.support.limits import LIMIT_SECONDS


def test_a_set_before_the_wait_wakes_the_thread():
    """No wake-up is lost before a wait."""
    bell = WakeEvent()
    bell.set()
    bell.set()

    waiter = threading.Thread(target=bell.wait, args=[LIMIT_SECONDS * 10], daemon=True)
    waiter.start()
    waiter.join(LIMIT_SECONDS)

    assert not waiter.is_alive()


def test_a_wait_resets_the_event():
    """A busy loop would follow if it did not."""
    bell = WakeEvent()
    bell.set()
    bell.wait(0)

    assert bell._lock.locked()
    bell.wait(0)
    bell.set()
    assert not bell._lock.locked()


def test_an_open_latch_releases_every_waiter():
    """Also a thread that waits after it was opened."""
    latch = Latch()
    assert not latch.wait(0)

    latch.open()

    assert latch.wait(0)
    assert latch.wait(0)


def test_deadlines():
    """None is never, and one that has passed has nothing left."""
    assert Deadline(None).left() == math.inf
    assert Deadline(0).left() == 0
    assert Deadline(-5).left() == 0
    assert 0 < Deadline(60).left() <= 60
