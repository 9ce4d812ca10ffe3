"""Transitions and pending tasks, with defaults for what a test doesn't care about."""

import time
import uuid

from taskstate.transitions.pending import PendingTask
from taskstate.transitions.rank import pack_rank
from taskstate.transitions.status import Status
from taskstate.transitions.transition import MessageFields, TaskDetails, Transition

#: 2023-11-14 22:13:20 UTC, in milliseconds.
START = 1_700_000_000_000


def make_id(number=None):
    return str(uuid.uuid4() if number is None else uuid.UUID(int=number))


def make_transition(status=Status.ENQUEUED, stamp=1, at=START, **values):
    fields = {
        "message_id": make_id(1),
        "enqueued_at": START,
        "user_pk": None,
        "actor_name": "actor",
        "queue_name": "default",
        "description": "",
        "model_name": "",
        "app_name": "",
    }
    for name in {*fields, "metadata", "stored_message", "tenant"} & values.keys():
        fields[name] = values.pop(name)
    details = {name: values.pop(name) for name in TaskDetails._fields if name in values}
    if details:
        values["details"] = TaskDetails(**details)
    values = {"attempt": 1, "started_at": None, "happened_at": time.monotonic(), **values}
    rank = pack_rank(status, stamp, at)
    return Transition(rank=rank, fields=MessageFields(**fields), **values)


def make_pending(*transitions):
    pending = PendingTask(transitions[0])
    for transition in transitions[1:]:
        pending.add(transition)
    return pending
