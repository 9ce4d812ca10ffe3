"""Threads that run messages through the hooks while exceptions are raised in them, and the account
of it: what each hook that returned must have pushed, and what one that was interrupted may have.
"""

import collections
import contextlib
import itertools
import os
import random
import sys
import threading
import time
import uuid
from pathlib import Path

import dramatiq
from dramatiq.broker import MessageProxy
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Shutdown, TimeLimitExceeded
from dramatiq.middleware.threading import Interrupt, raise_thread_exception

import taskstate
from benchmarks.workload.hooks import HOOKS
from taskstate.models import Task
from taskstate.transitions.rank import status_of
from taskstate.transitions.transition import FIELDS, MESSAGE_ID, RANK
from taskstate.utils.sync import WakeEvent

EXCEPTIONS = (TimeLimitExceeded, Shutdown)

#: In the order in which a message comes by them; before all, nothing at all.
PLACE_OF = {
    status: place for place, status in enumerate(("", "enqueued", "running", "done", "failed"))
}

#: Transitions that may wait for the writer before the next exceptions are raised, and before a
#: thread makes more of them: on a busy machine its exception may be late.
MAX_WAITING = 5_000
MOST_WAITING = 50_000

PACKAGE = f"{Path(taskstate.__file__).parent}{os.sep}"

BROKER = StubBroker(middleware=[])


class Life(threading.Thread):
    """Sends messages and runs each, as a worker thread does, until an exception is raised in it;
    then it waits for the next ``go``, until ``ends`` is set.

    Parameters:
      state(StateMiddleware): Whose hooks are called.
      interrupts(tuple): What may be raised in it.
    """

    def __init__(self, state, interrupts=(Interrupt,)):
        super().__init__(daemon=True)
        self.state = state
        self.interrupts = interrupts
        # Not an Event: an exception inside it may leave its lock locked.
        self.bell = WakeEvent()
        self.ends = False
        #: How many exceptions it may expect, how many have arrived, and how many it has recovered
        #: from: only then comes the next one, which so finds it inside a ``try``.
        self.expected = self.noted = self.recovered = 0
        self.is_awake = False
        #: Of each call that pushes: [message id, statuses that it may push, whether it returned].
        self.calls = []
        # Not uuid4 for each message: it lets go of the interpreter's lock, and a thread is
        # interrupted where that happens.
        self.prefix = str(uuid.uuid4())[:23]
        self.numbers = itertools.count()
        self.landed = collections.Counter()
        self.places = collections.Counter()

    def go(self):
        self.is_awake = False
        self.expected = self.recovered + 1
        self.bell.set()

    def run(self):
        while True:
            try:
                self.live_on()  # By a call: a loop's jump back may be outside of the ``try``.
            except self.interrupts as error:
                self.note(error, "")
            else:
                return

    def live_on(self):
        while not self.ends:
            self.recovered = self.noted
            if self.recovered == self.expected:
                self.bell.wait(1)
                continue
            self.is_awake = True
            if len(self.state._writer._buffer) < MOST_WAITING:
                self.live()
            else:
                self.bell.wait(0.01)

    def live(self):
        """Send a message and run it; every second one fails.  An exception out of a hook is handled
        as Dramatiq does it."""
        number = next(self.numbers)
        message = dramatiq.Message(
            queue_name="default",
            actor_name="act",
            args=(),
            kwargs={"for_state": {}},
            options={},
            message_id=f"{self.prefix}-{number:012x}",
        )
        self.call("before_enqueue", message, None)
        proxy = MessageProxy(message.copy())  # As the broker sends it.
        self.call("after_enqueue", message, None, pushes=["enqueued"])
        outcome = ["done"]
        if not (
            self.call("before_process_message", proxy, pushes=["running"])
            and number % 2
            and self.call("after_process_message", proxy, result=None)
        ):
            outcome = ["failed"]
            if not self.call("after_process_message", proxy, exception=TimeLimitExceeded()):
                outcome = ["done", "failed", None]
        self.call("before_ack", proxy, pushes=outcome)

    def call(self, hook, message, *arguments, pushes=None, **more):
        """Call a hook; return False if it was interrupted."""
        call = [message.message_id, pushes, False]
        if pushes:
            self.calls.append(call)
        try:
            getattr(self.state, hook)(BROKER, message, *arguments, **more)
        except self.interrupts as error:
            self.note(error, hook)
            return False
        call[2] = True
        return True

    def note(self, error, hook):
        """Note where the exception was raised."""
        ours, trace = [], error.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            if code.co_filename.startswith(PACKAGE):
                ours.append((code.co_name, trace.tb_lasti))
            trace = trace.tb_next
        if hook and ours:
            self.landed[hook] += 1
            self.places[ours[-1]] += 1
        else:
            self.landed["elsewhere"] += 1
        self.noted += 1


class TracedLife(Life):
    """Raises the exceptions itself, one in each message, before a bytecode of ours that is chosen
    at random: also where this release of Python would not.  It ends after so many ``times``."""

    def __init__(self, state, times, prepare):
        super().__init__(state)
        self.times = times
        self.prepare = prepare
        #: How many bytecodes of ours are left until then.
        self.left = 0

    def live_on(self):
        length = max(self.measure() for _ in range(3))
        while self.noted < self.times and not self.ends:
            self.prepare()
            self.left = random.randint(1, length)
            self.live()

    def measure(self):
        """Return how many bytecodes of ours a message takes."""
        self.prepare()
        self.left = 0
        self.live()
        return -self.left

    def call(self, *arguments, **more):
        sys.settrace(self.trace)
        try:
            return super().call(*arguments, **more)
        finally:
            sys.settrace(None)

    def trace(self, frame, event, argument):
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self.step

    def step(self, frame, event, argument):
        if event == "opcode":
            self.left -= 1
            if self.left == 0:
                raise random.choice(EXCEPTIONS)
        return self.step


class Account:
    """Counts what reaches the writer, and compares it and the rows with the calls of threads."""

    def __init__(self, state):
        self.state, self.writer = state, state._writer
        self.coalesced = collections.Counter()
        buffer = self.writer._buffer
        merge = buffer._merge

        def count(transition):
            message_id = transition[FIELDS][MESSAGE_ID]
            self.coalesced[message_id, status_of(transition[RANK]).value] += 1
            return merge(transition)

        buffer._merge = count

    def differences(self, lives):
        """Count the transitions that were lost, doubled or made up, and the rows that are wrong."""
        lost = doubled = 0
        left = self.coalesced.copy()
        for message_id, pushes, returned in (call for life in lives for call in life.calls):
            found = sum(left.pop((message_id, status), 0) for status in pushes if status)
            lost += returned and None not in pushes and not found
            doubled += found > 1
        newest = {}
        for message_id, status in self.coalesced:
            newest[message_id] = max(newest.get(message_id, ""), status, key=PLACE_OF.get)
        rows = {str(pk): status for pk, status in Task.objects.values_list("pk", "status")}
        wrong = sum(rows.get(key) != newest.get(key) for key in rows.keys() | newest.keys())
        return {"lost": lost, "doubled": doubled, "made up": len(left), "wrong rows": wrong}


def interrupt(lives, wanted, seconds, limit):
    """Let all of ``lives`` run for up to ``seconds`` and raise an exception in each, until
    ``wanted`` of them were raised inside hooks."""
    deadline = time.monotonic() + limit

    def wait_until(condition):
        while not condition():
            assert time.monotonic() < deadline, f"it hangs, or is too slow: {landed(lives)}"
            time.sleep(0.0001)

    buffer = lives[0].state._writer._buffer
    while sum(landed(lives).values()) < wanted:
        wait_until(lambda: len(buffer) < MAX_WAITING)
        for life in lives:
            life.go()
        wait_until(lambda: all(life.is_awake for life in lives))
        time.sleep(random.uniform(0, seconds))
        for life in lives:
            raise_thread_exception(life.ident, random.choice(EXCEPTIONS))
        wait_until(lambda: all(life.recovered == life.expected for life in lives))


def run(traced_lives, limit):
    """Let threads run until they have had their exceptions."""
    deadline = time.monotonic() + limit
    for life in traced_lives:
        life.start()
    for life in traced_lives:
        life.join(max(0.0, deadline - time.monotonic()))
    hang = [life for life in traced_lives if life.is_alive()]
    for life in hang:
        life.ends = True
    assert not hang, f"a thread hangs, or is too slow: {landed(hang)}"


@contextlib.contextmanager
def alive(lives, limit):
    """Start threads, and let them end within ``limit`` seconds."""
    for life in lives:
        life.start()
    try:
        yield
    finally:
        for life in lives:
            life.ends = True
            life.bell.set()
    for life in lives:
        life.join(limit)
        assert not life.is_alive(), "a thread hangs"


def landed(lives):
    """Return how many exceptions were raised inside each hook."""
    found = sum((life.landed for life in lives), collections.Counter())
    return {hook: found[hook] for hook in HOOKS}


def elsewhere(lives):
    """Return how many exceptions were raised between hooks."""
    return sum(life.landed["elsewhere"] for life in lives)


def places(lives):
    """Return how many functions of ours were hit, at how many bytecodes."""
    found = set().union(*(life.places for life in lives))
    return len({name for name, _ in found}), len(found)
