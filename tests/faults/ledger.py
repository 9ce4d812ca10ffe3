"""What the processes of a drill have sent, and what the signals told them: kept in files."""

import collections
import shutil
import tempfile
from pathlib import Path

from taskstate.models import Task


class Ledger:
    """A folder that ``website.py`` writes to in every process of a drill."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="taskstate-faults-"))
        self.environment = {"DRILL_FOLDER": str(self.folder)}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        shutil.rmtree(self.folder)

    def lines(self, name):
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def senders(self):
        """Return the ids of all messages that were sent, with the ids of the processes."""
        return dict(line.split() for line in self.lines("sent"))

    def sent(self):
        """Return the ids of all messages that were sent."""
        return list(self.senders())

    def rows(self):
        """Return the ids of those that have a row."""
        found = Task.objects.filter(pk__in=self.sent()).values_list("message_id", flat=True)
        return set(map(str, found))

    def check(self, log=""):
        """Compare the rows and the signals with what was sent; all of it is "enqueued".

        Parameters:
          log(str): What the processes have logged, for a failure.
        """
        senders = self.senders()
        sent = set(senders)
        rows = {
            str(message_id): status
            for message_id, status in Task.objects.values_list("message_id", "status")
        }
        told = collections.Counter(self.lines("signals"))
        lost = collections.Counter(senders[message_id] for message_id in sent - set(rows))
        assert not lost, f"messages without a row, by process: {dict(lost)}\n{log}"
        assert set(rows) == sent
        assert set(rows.values()) == {"enqueued"}
        assert [line for line, times in told.items() if times > 1] == []
        assert set(told) == {f"{message_id} enqueued" for message_id in sent}
        return len(rows)
