"""Facts and batches, with defaults for what a test doesn't care about."""

import time
import uuid

from taskstate.buffer import Entry
from taskstate.transitions import Status, Transition, pack_rank

#: 2023-11-14 22:13:20 UTC, in milliseconds.
START = 1_700_000_000_000


def make_id(number=None):
    return str(uuid.uuid4() if number is None else uuid.UUID(int=number))


def make_transition(status=Status.ENQUEUED, hop=1, at=START, **values):
    values.setdefault("message_id", make_id(1))
    values.setdefault("actor_name", "actor")
    values.setdefault("queue_name", "default")
    values.setdefault("attempt", 0)
    values.setdefault("enqueued_at", START)
    values.setdefault("started_at", None)
    values.setdefault("user_pk", None)
    values.setdefault("description", "")
    values.setdefault("model_name", "")
    values.setdefault("app_name", "")
    values.setdefault("happened_at", time.monotonic())
    return Transition(rank=pack_rank(status, hop, at), **values)


def make_entry(*transitions):
    entry = Entry(transitions[0])
    for transition in transitions[1:]:
        entry.add(transition)
    return entry
