"""The actor of all messages."""

import time

import dramatiq
from django.conf import settings

from benchmarks.workload import samples


@dramatiq.actor(queue_name=settings.BENCHMARK["queue"])
def work(milliseconds, for_state):
    """Sleep for this time, without using the processor."""
    samples.record(for_state, "running")
    if milliseconds:
        time.sleep(milliseconds / 1000)
    samples.record(for_state, "done")
