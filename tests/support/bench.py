"""A writer with everything around it faked: its store, its clock, its settings."""

import threading

from taskstate.conf import Config
from taskstate.stores import BadDataError, Change, TimeLimitError, Written
from taskstate.transitions.status import Status
from taskstate.writer.pacing import BURST
from taskstate.writer.synchronous import SynchronousWriter
from taskstate.writer.writer import Writer
from tests.support.factories import make_id, make_transition


class Outage(Exception):
    """What a database that is away raises."""


class FakeStore:
    """Keeps what was committed, and fails as a test demands."""

    def __init__(self):
        self.batches = []
        self.poison = set()
        self.rejects = lambda transition: transition.message_id in self.poison
        #: More rows take it longer than it may.
        self.most_rows = 10**6
        self.error = None
        self.errors_after_commit = []
        self.tries = 0
        #: Ids of messages whose rows take too long.
        self.slow = set()
        self.stale_checks = 0
        self.has_closed_idle = threading.Event()
        self.closed = 0
        self.in_transaction = False
        self.on_write = lambda: None

    def write(self, batch):
        self.tries += 1
        self.on_write()
        if self.error is not None:
            raise self.error
        is_slow = any(pending.latest.message_id in self.slow for pending in batch)
        if is_slow or len(batch) > self.most_rows:
            raise TimeLimitError("it took too long") from Outage("it took too long")
        if any(self.rejects(pending.latest) for pending in batch):
            raise BadDataError("no such color")
        self.batches.append(list(batch))
        if self.errors_after_commit:
            raise self.errors_after_commit.pop()
        return Written(len(batch), 0, [Change(pending.latest, pending) for pending in batch])

    def is_in_transaction(self):
        return self.in_transaction

    def close_stale_connections(self):
        self.stale_checks += 1

    def close_idle_connections(self):
        self.has_closed_idle.set()

    def close(self):
        self.closed += 1

    @property
    def committed(self):
        return [pending.latest for batch in self.batches for pending in batch]


class _LiveConfig:
    """The present config of a bench."""

    def __init__(self, bench):
        self._bench = bench

    def __getattr__(self, name):
        return getattr(self._bench.config, name)


class Bench:
    """A writer with everything around it faked; no thread starts by itself."""

    def __init__(self, **config):
        self.now = 1000.0
        self.store = FakeStore()
        self.config = Config(**config)
        self.announced = []
        self.registered = []
        self.threads = False
        self.writer = self.make_writer()
        self.synchronous = SynchronousWriter(
            normalize=list,
            open_store=lambda: self.store,
            announce=self.announced.append,
            register=self.registered.append,
            fallback=self.writer,
            clock=lambda: self.now,
        )
        self.start = self.writer.thread._start
        self.writer.thread._start = lambda: self.threads and self.start()
        start_soon = self.writer.thread._start_soon
        self.writer.thread._start_soon = lambda: self.threads and start_soon()

    def make_writer(self):
        writer = Writer(
            options=_LiveConfig(self),
            normalize=list,
            open_store=lambda: self.store,
            announce=self.announced.append,
            register=self.registered.append,
            clock=lambda: self.now,
        )
        writer._cycle.backoff._random = lambda: 1.0
        return writer

    def push(self, *numbers, status=Status.ENQUEUED, stamp=1):
        for number in numbers:
            self.writer.push(make_transition(status, stamp, message_id=make_id(number)))

    def spend_burst(self):
        """Use up the flushes that the rate limit allows at once."""
        for number in range(BURST):
            self.push(10**6 + number)
            self.writer._cycle.step()
        assert len(self.store.batches) == BURST
        self.store.batches.clear()


def fail_from_second_on(store):
    def fail():
        if store.tries == 2:
            store.error = Outage()

    store.on_write = fail


def has_emoji(transition):
    texts = (transition.fields.description, *(transition.details or ()))
    return any("😀" in text for text in texts if isinstance(text, str))
