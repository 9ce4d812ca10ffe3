"""The actor: it sleeps, or does nothing at all."""

import time

import dramatiq
from django.conf import settings

from benchmarks.contest import samples


@dramatiq.actor(queue_name=settings.TERMS["queue"])
def work(milliseconds, for_state):
    """Take so long, without using the processor."""
    samples.note(for_state, "running")
    if milliseconds:
        time.sleep(milliseconds / 1000)
    samples.note(for_state, "done")
