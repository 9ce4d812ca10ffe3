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

    def sent(self):
        """Return the ids of all messages that were sent."""
        return self.lines("sent")

    def rows(self):
        """Return the ids of those that have a row."""
        found = Task.objects.filter(pk__in=self.sent()).values_list("message_id", flat=True)
        return set(map(str, found))

    def check(self):
        """Compare the rows and the signals with what was sent; all of it is "enqueued"."""
        sent = set(self.sent())
        rows = {
            str(message_id): status
            for message_id, status in Task.objects.values_list("message_id", "status")
        }
        told = collections.Counter(self.lines("signals"))
        assert len(sent - set(rows)) == 0, "messages without a row"
        assert set(rows) == sent
        assert set(rows.values()) == {"enqueued"}
        assert [line for line, times in told.items() if times > 1] == []
        assert set(told) == {f"{message_id} enqueued" for message_id in sent}
        return len(rows)
