"""Actors that end in every way a task can end.

Each takes ``for_state``, so that the message which carries it is tracked.
"""

import os
import time

import dramatiq
from dramatiq.middleware import CurrentMessage

import taskstate

QUEUE = os.environ.get("DEMO_QUEUE", "demo")
WORK_SECONDS = float(os.environ.get("DEMO_WORK_SECONDS", "0.004"))
BACKOFF = {"min_backoff": 300, "max_backoff": 900}
REPORT_PAGES = 100


class Expected(Exception):
    """Raised by the actors that are meant to fail."""


@dramatiq.actor(queue_name=QUEUE)
def succeed(for_state=None):
    """Do some work."""
    time.sleep(WORK_SECONDS)


@dramatiq.actor(queue_name=QUEUE)
def report(seconds, for_state=None):
    """Take that long, and tell of the progress."""
    for _ in taskstate.track(range(REPORT_PAGES), "Writing pages"):
        time.sleep(seconds / REPORT_PAGES)


@dramatiq.actor(queue_name=QUEUE, max_retries=3, **BACKOFF)
def fail_once(retries, for_state=None):
    """Fail, and succeed when it is retried."""
    time.sleep(WORK_SECONDS)
    if _retries() < retries:
        raise Expected("The mail server did not answer.")


@dramatiq.actor(queue_name=QUEUE, max_retries=1, throws=Expected)
def fail_for_good(for_state=None):
    """Fail with an error that no retry can cure."""
    time.sleep(WORK_SECONDS)
    raise Expected("The card was declined.")


@dramatiq.actor(queue_name=QUEUE, max_age=1)
def skip(for_state=None):
    """Never run: the message is too old when it arrives."""
    raise AssertionError


def _retries():
    return CurrentMessage.get_current_message().options.get("retries", 0)
