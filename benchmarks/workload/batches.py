"""Batches for the flush job."""

import time
import uuid

from taskstate.transitions.pending import PendingTask
from taskstate.transitions.rank import pack_rank, stamp_of
from taskstate.transitions.status import Status
from taskstate.transitions.transition import MessageFields, Transition


def make_batch(rows):
    """Return a batch of new messages, in the order in which they were sent."""
    now = int(time.time() * 1000)
    return [
        PendingTask(
            Transition(
                rank=pack_rank(Status.ENQUEUED, now, now + number % 1000),
                attempt=1,
                started_at=None,
                happened_at=time.monotonic() + 60,  # After any clear.
                fields=MessageFields(
                    message_id=str(uuid.uuid4()),
                    enqueued_at=now + number % 1000,
                    user_pk=1,
                    actor_name="work",
                    queue_name="default",
                    description=f"Export of report {number}",
                    model_name="Report",
                    app_name="shop",
                ),
            )
        )
        for number in range(rows)
    ]


def make_done(batch):
    """Return the batch that the messages of ``batch`` have when they are done."""
    done = []
    for task in batch:
        sent = task.latest
        rank = pack_rank(Status.DONE, stamp_of(sent.rank), sent.time + 2000)
        done.append(PendingTask(sent._replace(rank=rank, started_at=sent.time + 1000)))
    return done
