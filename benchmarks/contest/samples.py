"""A few messages among many, whose transitions are timed: by ``time.time()``, since another
process compares."""

import collections
import time

#: What their tasks are found by.
APP_NAME = "benchmarks"
MODEL_NAME = "Sample"

#: In the order of a task's life.
STATES = ("enqueued", "running", "done")

#: By sample and state: when it happened, and when ``task_changed`` told of it.
happened = collections.defaultdict(dict)
told = collections.defaultdict(dict)


def for_state(number, *, is_sample):
    """Return the ``for_state`` of a message."""
    return {
        "user_pk": 1,
        "description": str(number),
        "app_name": APP_NAME,
        "model_name": MODEL_NAME if is_sample else "Export",
    }


def note(kept, state):
    """Note that a message gets into ``state`` right now, if it is a sample; ``kept`` is its
    ``for_state``."""
    if kept["model_name"] == MODEL_NAME:
        happened[kept["description"]].setdefault(state, time.time())


def listen(sender, task, **kwargs):
    """Note when the state of a sample is told; a receiver of ``task_changed``."""
    if task.model_name == MODEL_NAME:
        reach(told[task.description], task.status)


def times():
    """Return all that was noted: seconds since 1970, by sample and state."""
    return {"happened": happened, "told": told}


def reach(reached, state):
    """Note that ``state`` was reached right now, and with it all before it."""
    now = time.time()
    for passed in STATES[: STATES.index(state) + 1]:
        reached.setdefault(passed, now)
