"""A writer with everything around it faked: its store, its clock, its settings."""

import threading

from taskstate.conf import Config
from taskstate.flusher import Flusher
from taskstate.pacing import BURST
from taskstate.stores import BadDataError, Change, Written
from taskstate.transitions import Status
from taskstate.writer import Writer
from tests.factories import make_id, make_transition


class Outage(Exception):
    """What a database that is away raises."""


class FakeStore:
    """Keeps what was committed, and fails when told to."""

    def __init__(self):
        self.batches = []
        self.poison = set()
        self.error = None
        self.errors_after_commit = []
        self.tries = 0
        self.tidied = 0
        self.rested = threading.Event()
        self.closed = 0
        self.in_transaction = False
        self.on_write = lambda: None

    def write(self, batch):
        self.tries += 1
        self.on_write()
        if self.error is not None:
            raise self.error
        if any(entry.winner.message_id in self.poison for entry in batch):
            raise BadDataError("no such colour")
        self.batches.append(list(batch))
        if self.errors_after_commit:
            raise self.errors_after_commit.pop()
        return Written(len(batch), 0, [Change(entry.winner, entry) for entry in batch])

    def is_in_transaction(self):
        return self.in_transaction

    def tidy(self):
        self.tidied += 1

    def rest(self):
        self.rested.set()

    def close(self):
        self.closed += 1

    @property
    def committed(self):
        return [entry.winner for batch in self.batches for entry in batch]


class Bench:
    """A writer with everything around it faked; no thread starts by itself."""

    def __init__(self, **config):
        self.now = 1000.0
        self.store = FakeStore()
        self.config = Config(**config)
        self.announced = []
        self.watched = []
        self.threads = False
        self.writer = Writer(
            make_flusher=self.make_flusher,
            config=lambda: self.config,
            watch=self.watched.append,
            clock=lambda: self.now,
        )
        self.start = self.writer._start
        self.writer._start = lambda: self.threads and self.start()

    def make_flusher(self):
        return Flusher(
            fit=lambda transition: transition,
            open_store=lambda: self.store,
            announce=self.announced.append,
            clock=lambda: self.now,
            randomness=lambda: 1.0,
        )

    def push(self, *numbers, status=Status.ENQUEUED, hop=1):
        for number in numbers:
            self.writer.push(make_transition(status, hop, message_id=make_id(number)))

    def spend_burst(self):
        """Use up what a quiet time allows at once."""
        for number in range(BURST):
            self.push(10**6 + number)
            self.writer.step()
        assert len(self.store.batches) == BURST
        self.store.batches.clear()


def fail_from_second_on(store):
    def fail():
        if store.tries == 2:
            store.error = Outage()

    store.on_write = fail
