"""Actors whose tasks end in every possible way.

A message is tracked if it passes ``for_state``.
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


class Expected(taskstate.UserFacingError):
    """Raised by the actors that fail on purpose.  Users may read its message."""


@dramatiq.actor(queue_name=QUEUE)
def succeed(for_state=None):
    """Work for a short time."""
    time.sleep(WORK_SECONDS)


@dramatiq.actor(queue_name=QUEUE)
def report(seconds, for_state=None):
    """Work for this number of seconds, and report the progress."""
    for _ in taskstate.track(range(REPORT_PAGES), "Writing pages"):
        time.sleep(seconds / REPORT_PAGES)


@dramatiq.actor(queue_name=QUEUE, max_retries=3, **BACKOFF)
def fail_once(retries, for_state=None):
    """Fail this number of times, then succeed."""
    time.sleep(WORK_SECONDS)
    if _retries() < retries:
        raise Expected("The mail server did not answer.")


@dramatiq.actor(queue_name=QUEUE, max_retries=1, throws=Expected)
def fail_for_good(for_state=None):
    """Fail with an error that is not retried."""
    time.sleep(WORK_SECONDS)
    raise Expected("The card was declined.")


@dramatiq.actor(queue_name=QUEUE, max_age=1)
def skip(for_state=None):
    """Never run, because the message is too old when it arrives."""
    raise AssertionError


def _retries():
    return CurrentMessage.get_current_message().options.get("retries", 0)
