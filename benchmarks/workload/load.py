"""Sends messages to a worker in this process."""

import sys
import time

import dramatiq
from django.conf import settings
from django.utils.module_loading import import_string

from benchmarks.workload import samples, tables
from benchmarks.workload.acks import AckCounter
from benchmarks.workload.tasks import work

#: The time limit for all messages of a round.
LIMIT_SECONDS = 600
#: How many milliseconds a worker thread waits for a message before it checks whether it is paused.
WORKER_TIMEOUT = 20
#: The limit of unprocessed messages while sending and processing at the same time.
MAX_BACKLOG = 1000
BACKLOG_PAUSE_SECONDS = 0.001


class Load:
    """Sends messages, and processes them with a worker.

    Parameters:
      threads(int): The number of worker threads.
      milliseconds(float): The duration of the actor.
      statements(StatementCounter): Counts the statements of this process.
    """

    def __init__(self, *, threads, milliseconds, statements):
        self.milliseconds = milliseconds
        self.statements = statements
        self.broker = dramatiq.get_broker()
        self.broker.flush_all()
        self.acks = next(m for m in self.broker.middleware if isinstance(m, AckCounter))
        self.sent = 0
        self._sampled_at = float("-inf")
        self.worker = dramatiq.Worker(
            self.broker, worker_threads=threads, worker_timeout=WORKER_TIMEOUT
        )

    def send(self, *, sample_seconds=None):
        """Send a message.  It is a sample if the last sample was sent this many seconds ago."""
        now = time.perf_counter()
        is_sample = sample_seconds is not None and now - self._sampled_at >= sample_seconds
        if is_sample:
            self._sampled_at = now
        for_state = samples.make_for_state(self.sent, is_sample=is_sample)
        samples.record(for_state, "enqueued")
        work.send(self.milliseconds, for_state=for_state)
        self.sent += 1

    def send_paced(self, messages, *, rate, seconds, sample_seconds):
        """Send messages at a rate, for a limited time.

        Parameters:
          messages(int): The maximum number of messages.
          rate(int): Messages per second, or None for as many as the worker processes.
          seconds(float): The maximum time.
          sample_seconds(float): The time between two samples, or None.
        """
        started = time.perf_counter()
        for number in range(messages):
            elapsed = time.perf_counter() - started
            if elapsed >= seconds:
                break
            if rate:
                time.sleep(max(0, number / rate - elapsed))
            while not rate and self.sent - self.acks.count > MAX_BACKLOG:
                time.sleep(BACKLOG_PAUSE_SECONDS)
            self.send(sample_seconds=sample_seconds)

    def pause(self):
        """Pause the worker threads.

        The worker's consumers, which prefetch a few messages, go on: to pause and resume them takes
        seconds.
        """
        for thread in self.worker.workers:
            thread.pause()
        for thread in self.worker.workers:
            thread.paused_event.wait(LIMIT_SECONDS)

    def resume(self):
        """Resume the worker threads."""
        for thread in self.worker.workers:
            thread.resume()

    def finish(self):
        """Wait until all messages are acknowledged and all transitions are written."""
        if not self.acks.wait(self.sent, LIMIT_SECONDS):
            sys.exit(
                f"Only {self.acks.count:,} of {self.sent:,} messages were processed within "
                f"{LIMIT_SECONDS} seconds. Send fewer messages, with --messages."
            )
        flush()

    def warm_up(self, messages):
        """Process messages that are not measured, and delete their rows."""
        if not messages:
            return
        for _ in range(messages):
            self.send()
        self.finish()
        tables.empty()
        self.acks.count = self.sent = 0


def flush():
    """Wait until all transitions are written, if the contender writes them later."""
    path = settings.BENCHMARK["flush"]
    if path is not None and not import_string(path)(LIMIT_SECONDS):
        sys.exit(f"The transitions were not written, or not within {LIMIT_SECONDS} seconds.")
