"""Actors that are functions, classes and coroutines: each does what its message says.

``plans`` holds a list for each life of the message: what it does in each attempt.
"""

import asyncio
import os
import time
import uuid

import dramatiq
from dramatiq.errors import Retry
from dramatiq.middleware import CurrentMessage, SkipMessage

from tests.faults.works import journal

QUEUE = os.environ.get("DEMO_QUEUE", "works")
WORK_SECONDS = float(os.environ.get("WORKS_SECONDS", "0.01"))
BACKOFF_MS = int(os.environ.get("WORKS_BACKOFF", "100"))


class Boom(Exception):
    """What is retried."""


class Expected(Exception):
    """What is not."""


OPTIONS = {
    "queue_name": QUEUE,
    "throws": Expected,
    "max_retries": 20,
    "min_backoff": BACKOFF_MS,
    "max_backoff": 2 * BACKOFF_MS,
}


def begin(plans):
    """Return what this attempt has to do, after it was written down."""
    message = CurrentMessage.get_current_message()
    life, attempt = journal.life(), message.options.get("retries", 0) + 1
    plan = plans[min(life, len(plans) - 1)]
    token = uuid.uuid4().hex
    outcome = plan[min(attempt, len(plan)) - 1]
    is_last = attempt >= len(plan) or outcome not in {"boom", "retry"}
    journal.note(message.message_id, token, "began", life, attempt, is_last)
    return message.message_id, token, life, attempt, is_last, outcome


def end(message_id, token, life, attempt, is_last, outcome):
    journal.note(message_id, token, outcome, life, attempt, is_last)
    if outcome == "boom":
        raise Boom(f"life {life}, attempt {attempt}")
    if outcome == "expected":
        raise Expected(f"life {life}, attempt {attempt}")
    if outcome == "retry":
        raise Retry("later", delay=BACKOFF_MS)
    if outcome == "skip":
        raise SkipMessage


@dramatiq.actor(**OPTIONS)
def work(plans, for_state=None):
    run = begin(plans)
    time.sleep(WORK_SECONDS)
    end(*run)


class Work(dramatiq.GenericActor):
    class Meta:
        queue_name = QUEUE
        throws = Expected
        max_retries = OPTIONS["max_retries"]
        min_backoff = OPTIONS["min_backoff"]
        max_backoff = OPTIONS["max_backoff"]

    def perform(self, plans, for_state=None):
        run = begin(plans)
        time.sleep(WORK_SECONDS)
        end(*run)


@dramatiq.actor(**OPTIONS)
async def work_async(plans, for_state=None):
    run = begin(plans)
    await asyncio.sleep(WORK_SECONDS)
    end(*run)


def is_worth_a_retry(retries, exception):
    return retries < 2 and isinstance(exception, (Boom, Retry))


@dramatiq.actor(**{**OPTIONS, "retry_when": is_worth_a_retry})
def work_when(plans, for_state=None):
    run = begin(plans)
    time.sleep(WORK_SECONDS)
    end(*run)
