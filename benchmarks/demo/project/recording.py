"""Records what each process of the demo did, for the demo's summary."""

import dataclasses
import json
import os
import threading
from multiprocessing.util import Finalize
from pathlib import Path

from django.db.backends.signals import connection_created

import taskstate
from benchmarks.statements import StatementCounter
from taskstate.middleware import StateMiddleware
from taskstate.transitions.rank import status_of
from taskstate.transitions.transition import MESSAGE_ID
from taskstate.writer.thread import THREAD_NAME


class RecordingStateMiddleware(StateMiddleware):
    """``StateMiddleware`` that records all transitions and counts the writer's SQL statements.

    The record is written to a file when the process ends.
    """

    def __init__(self, **options):
        super().__init__(**options)
        self.transitions = []
        self._push_to_sink, self._sink.push = self._sink.push, self._push
        self.saved = False
        self.statements = StatementCounter()
        connection_created.connect(self._watch_writer, weak=False)

    def _watch_writer(self, connection, **_):
        """Count the statements of a new connection if it belongs to the writer thread."""
        if threading.current_thread().name == THREAD_NAME:
            self.statements.put_on(connection)

    def _push(self, transition, **how):
        self._push_to_sink(transition, **how)
        if not self.transitions:
            # Runs after the last flush, whose priority is 0.
            Finalize(None, self.save, exitpriority=-1)
        rank, attempt, _, _, fields, _ = transition
        self.transitions.append((fields[MESSAGE_ID], status_of(rank).value, attempt))

    def save(self):
        """Write the record of this process to a file, once."""
        if self.saved:
            return
        self.saved = True
        folder = Path(os.environ["DEMO_RECORD"])
        if not folder.exists():  # The demo was interrupted.
            return
        record = {
            "transitions": self.transitions,
            "statements": self.statements.count,
            "stats": dataclasses.asdict(taskstate.stats()),
        }
        (folder / f"{os.getpid()}.json").write_text(json.dumps(record))
