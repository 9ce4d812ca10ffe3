"""Receivers of ``task_changed`` that raise, dawdle, flush, send and close connections, all at once:
real workers go on, every row is right, and all other receivers get every change.
"""

import threading
import time

import dramatiq
import pytest
from django.db import connections
from dramatiq import middleware as dm

import taskstate
from taskstate.middleware import StateMiddleware
from taskstate.models import Task
from taskstate.signals import task_changed
from tests.support.harness import Workers, make_broker
from tests.support.limits import LIMIT_SECONDS

THREADS = 4
MESSAGES = 50
#: All changes are announced one after the other, each with a commit, perhaps, on a busy machine.
ANNOUNCED_SECONDS = 4 * LIMIT_SECONDS
SLOW_SECONDS = 2.0
#: One in so many announced changes closes the connection: a new one is slow to open.
CHANGES_PER_CLOSE = 5
SLOW, USUAL, FOLLOW_UP = "slow", "usual", "follow-up"


class Times(dm.Middleware):
    """Notes when each message had run, and when it was acknowledged."""

    def __init__(self):
        self.ran, self.acknowledged = {}, {}

    def after_process_message(self, broker, message, *, result=None, exception=None):
        self.ran[message.message_id] = time.monotonic()

    def after_ack(self, broker, message):
        self.acknowledged[message.message_id] = time.monotonic()

    def longest_wait(self):
        """Return for how long a worker thread was held up between the two, at most."""
        return max(self.acknowledged[key] - ran for key, ran in self.ran.items())


class Receivers:
    """A receiver of each kind that misbehaves, between two that keep what they receive.

    Parameters:
      alias(str): The database to which one of them closes the connection.
      actor(Callable): One of them sends messages of it.
    """

    def __init__(self, alias, actor):
        self.received_first, self.received_last = [], []
        self.calls = 0
        self.follow_ups = []
        self.flushes = []
        #: The slow one has begun; it may end, once its time is over; it has ended.
        self.dawdles, self.may_end, self.dawdled = (threading.Event() for _ in range(3))
        self._alias = alias
        self._actor = actor
        self._all = [
            self._receive_first,
            self._raise,
            self._dawdle,
            self._flush,
            self._send,
            self._close,
            self._receive_last,
        ]

    def __enter__(self):
        for receiver in self._all:
            task_changed.connect(receiver, sender=StateMiddleware)
        return self

    def __exit__(self, *error):
        for receiver in self._all:
            task_changed.disconnect(receiver, sender=StateMiddleware)

    def _receive_first(self, task, transitions, **kwargs):
        self.received_first.append((str(task.pk), task.status, transitions))

    def _receive_last(self, task, transitions, **kwargs):
        self.received_last.append((str(task.pk), task.status, transitions))

    def _raise(self, **kwargs):
        self.calls += 1
        raise ValueError("broken receiver")

    def _dawdle(self, task, **kwargs):
        if (task.description, task.status) == (SLOW, "done"):
            self.dawdles.set()
            threading.Event().wait(SLOW_SECONDS)
            self.may_end.wait(LIMIT_SECONDS * 2)
            self.ended_at = time.monotonic()
            self.dawdled.set()

    def _flush(self, task, **kwargs):
        # Not for the slow one: its "done" is to be written by the writer's own turn.
        if task.description != SLOW:
            self.flushes.append(taskstate.flush(LIMIT_SECONDS))

    def _send(self, task, **kwargs):
        if (task.description, task.status) == (USUAL, "done"):
            self.follow_ups.append(send(self._actor, FOLLOW_UP))

    def _close(self, **kwargs):
        if self.calls % CHANGES_PER_CLOSE == 0:
            connections[self._alias].close()


def send(actor, description):
    return actor.send(for_state={"description": description}).message_id


def announced(message_id, received):
    """Return the statuses of a task as a receiver got them, and those in its ``transitions``."""
    found = [(status, transitions) for key, status, transitions in received if key == message_id]
    return [status for status, _ in found], [s.value for _, some in found for s in some]


@pytest.mark.parametrize("waits", [False, True], ids=["default", "flush_before_ack"])
@pytest.mark.parametrize("store", ["orm", "upsert"])
def test_receivers_that_misbehave(store, waits, database, caplog, report):
    """By default they hold no worker thread up.  With FLUSH_BEFORE_ACK a slow one holds up
    whoever waits for the next flush, for as long as it takes; not those of its own flush."""
    times = Times()
    broker = make_broker(times, state=StateMiddleware(store=store, flush_before_ack=waits))

    @dramatiq.actor(broker=broker)
    def work(for_state):
        pass

    with Receivers(database, work) as receivers, Workers(broker, threads=THREADS) as workers:
        slow = send(work, SLOW)
        assert receivers.dawdles.wait(LIMIT_SECONDS)
        began = time.monotonic()
        if waits:
            receivers.may_end.set()
        usual = [send(work, USUAL) for _ in range(MESSAGES)]
        workers.join()
        took = time.monotonic() - began
        was_dawdling = not receivers.dawdled.is_set()
        receivers.may_end.set()
        assert receivers.dawdled.wait(LIMIT_SECONDS)
        # Now they are announced, and for each of them another one is sent.
        assert taskstate.flush(ANNOUNCED_SECONDS)
        workers.join()
        assert taskstate.flush(ANNOUNCED_SECONDS)

    ids = [slow, *usual, *receivers.follow_ups]
    rows = {str(task.pk): (task.description, task.status) for task in Task.objects.all()}
    expected = {slow: (SLOW, "done"), **dict.fromkeys(usual, (USUAL, "done"))}
    expected.update(dict.fromkeys(receivers.follow_ups, (FOLLOW_UP, "done")))
    received = receivers.received_first
    raised = sum("broken receiver" in str(record.exc_info) for record in caplog.records)
    report(
        f"{len(rows)} messages, {len(received)} changes announced, {raised} exceptions logged; "
        f"{MESSAGES} messages sent during a receiver's {SLOW_SECONDS:.0f} s were processed in "
        f"{took:.2f} s, a worker thread was held up for {times.longest_wait():.2f} s at most"
    )
    assert rows == expected
    assert len(receivers.follow_ups) == MESSAGES
    assert received == receivers.received_last
    assert len(received) == receivers.calls == raised
    assert receivers.flushes == [True for message_id, *_ in received if message_id != slow]
    for message_id in ids:
        present, transitions = announced(message_id, received)
        assert present[-1] == "done"
        assert len(set(present)) == len(present)
        assert len(set(transitions)) == len(transitions)
        assert {"running", "done"} <= set(transitions) <= {"enqueued", "running", "done"}
    stats = taskstate.stats()
    assert (stats.failed_flushes, stats.rejected, stats.dropped, stats.pending) == (0, 0, 0, 0)
    assert [record for record in caplog.records if record.name.startswith("taskstate")] == []
    if waits:
        assert times.acknowledged[slow] < receivers.ended_at
    else:
        # All of them had been processed before it was done.
        assert was_dawdling
