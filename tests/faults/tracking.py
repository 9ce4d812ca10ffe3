"""One process of ``test_clear``: pushes transitions of its own messages.

It asks the database for its time before and after: so the drill knows what surely predates a
clear.
"""

import itertools
import sys
import threading
import time

import django

offset = float(sys.argv[3])
real_time = time.time
time.time = lambda: real_time() + offset

django.setup()

import taskstate  # noqa: E402
from taskstate.middleware import StateMiddleware  # noqa: E402
from taskstate.transitions.status import Status  # noqa: E402
from tests.faults.clock import database_time  # noqa: E402
from tests.faults.crowd import run  # noqa: E402
from tests.support.factories import make_id, make_transition  # noqa: E402

#: Messages that begin at once, and how many of these rounds later they are done.
ROUND = 20
ROUNDS_UNTIL_DONE = 10
PAUSE_SECONDS = 0.05
FLUSH_SECONDS = 60

stopping = threading.Event()


def work():
    """Return what was pushed: the time before, the time after, and (message, status) each."""
    first, store = int(sys.argv[1]), sys.argv[2]
    state = StateMiddleware(store=store, flush_interval=0.2)
    rounds = []
    for number in itertools.count():
        if stopping.wait(PAUSE_SECONDS):
            break
        new = range(first + number * ROUND, first + (number + 1) * ROUND)
        transitions = [(message, "enqueued") for message in new]
        if number >= ROUNDS_UNTIL_DONE:
            transitions += [(message - ROUNDS_UNTIL_DONE * ROUND, "done") for message in new]
        before = database_time("default")
        for message, status in transitions:
            at = int(time.time() * 1000)
            state._writer.push(make_transition(Status(status), at=at, message_id=make_id(message)))
        rounds.append((before, database_time("default"), transitions))
    flushed = taskstate.flush(FLUSH_SECONDS)
    stats = taskstate.stats()
    return {
        "rounds": rounds,
        "flushed": flushed,
        "unchanged": stats.rows_unchanged,
        "failures": stats.failed_flushes,
    }


run(work, stopping)
