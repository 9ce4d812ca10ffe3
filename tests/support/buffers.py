"""Buffers, and what is pushed to them."""

from taskstate.transitions.status import Status
from taskstate.utils.sync import Latch
from taskstate.writer.buffer import Buffer
from tests.support.factories import make_id, make_transition

MANY = 10**9
MIB = 1024**2


class Deferred:
    """Stands for a deferred transition."""

    def __init__(self, *texts):
        self.texts = texts
        self.is_dropped = False

    def on_dropped(self):
        self.is_dropped = True


def as_they_are(transitions):
    return list(transitions)


def lower_ids(transitions):
    return [
        each._replace(fields=each.fields._replace(message_id=each.message_id.lower()))
        for each in transitions
    ]


def pushed(*transitions, max_pending=100, **bounds):
    buffer = Buffer(max_pending, normalize=as_they_are, **bounds)
    for transition in transitions:
        buffer.queue.push(transition)
    buffer.coalesce()
    return buffer


def ids(batch):
    return [pending.latest.message_id for pending in batch]


def is_open(latch):
    return latch.wait(0)


def awaited(buffer, transition):
    latch = Latch()
    buffer.push_awaited(transition, latch)
    return latch


def make_large(number, status=Status.DONE, **texts):
    """Return a transition whose texts are its own, of about 64 kB."""
    texts = texts or {"result": f"{number:064000}"}
    return make_transition(status, message_id=make_id(number), **texts)
