"""Samples: a few messages among many, whose transitions are timed.

The times come from ``time.time()``, because they are compared with those of another process.
"""

import collections
import time

#: These values identify the rows of samples.
APP_NAME = "benchmarks"
MODEL_NAME = "Sample"

#: The statuses of a task, in their order.
STATES = ("enqueued", "running", "done")

#: The time of each transition, by sample and status.
happened_at = collections.defaultdict(dict)
#: The time when ``task_changed`` was sent for it, by sample and status.
signaled_at = collections.defaultdict(dict)


def make_for_state(number, *, is_sample):
    """Return the ``for_state`` of a message."""
    return {
        "user_pk": 1,
        "description": str(number),
        "app_name": APP_NAME,
        "model_name": MODEL_NAME if is_sample else "Export",
    }


def record(for_state, status):
    """Record that the message with this ``for_state`` gets this status now, if it is a sample."""
    if for_state["model_name"] == MODEL_NAME:
        happened_at[for_state["description"]].setdefault(status, time.time())


def on_task_changed(sender, task, **kwargs):
    """Record that ``task_changed`` was sent for a sample."""
    if task.model_name == MODEL_NAME:
        mark_reached(signaled_at[task.description], task.status)


def times():
    """Return all recorded times: seconds since 1970, by sample and status."""
    return {"happened_at": happened_at, "signaled_at": signaled_at}


def mark_reached(reached, status):
    """Record that a sample has reached this status now, and with it all earlier ones.

    Parameters:
      reached(dict): The recorded times of the sample by status.
    """
    now = time.time()
    for passed in STATES[: STATES.index(status) + 1]:
        reached.setdefault(passed, now)
