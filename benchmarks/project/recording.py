"""What a process did, written to a file when it ends: for the tables of the benchmarks."""

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
from taskstate.writer import THREAD_NAME


class RecordingStateMiddleware(StateMiddleware):
    """Notes every transition on its way to the buffer."""

    def __init__(self, **options):
        super().__init__(**options)
        self.transitions = []
        self.saved = False
        self.statements = StatementCounter()
        connection_created.connect(self._watch_writer, weak=False)

    def _watch_writer(self, connection, **_):
        """Count what the writer's thread runs on a connection that was just made."""
        if threading.current_thread().name == THREAD_NAME:
            self.statements.put_on(connection)

    def _push(self, status, moment, hop, attempt, started_at, fields, extras, **how):  # noqa: PLR0917
        super()._push(status, moment, hop, attempt, started_at, fields, extras, **how)
        if not self.transitions:
            # After the last flush, which has the priority 0.
            Finalize(None, self.save, exitpriority=-1)
        self.transitions.append((fields.message_id, status.value, attempt))

    def save(self):
        """Write what this process did to the folder of the run."""
        if self.saved:
            return
        self.saved = True
        folder = Path(os.environ["DEMO_RECORD"])
        if not folder.exists():  # The demo was interrupted.
            return
        report = {
            "transitions": self.transitions,
            "statements": self.statements.count,
            "stats": dataclasses.asdict(taskstate.stats()),
        }
        (folder / f"{os.getpid()}.json").write_text(json.dumps(report))
