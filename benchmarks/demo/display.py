"""Shows the tasks of a run while they change: as tables on a terminal, as lines elsewhere."""

import contextlib
import time

from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from benchmarks.demo.console import console
from benchmarks.demo.messages import TRACKED, UNTRACKED

STATUSES = ("enqueued", "delayed", "running", "done", "failed", "skipped")
COLORS = {"done": "green", "failed": "red", "skipped": "yellow"}
BAR_WIDTH = 30
ERROR_WIDTH = 34
#: The shortest time between two lines.
LINE_SECONDS = 1


@contextlib.contextmanager
def display():
    """Yield a function that shows a ``Snapshot``."""
    if not console.is_terminal:
        yield Lines().show
        return
    with Live(console=console, refresh_per_second=10) as live:
        yield lambda snapshot: live.update(Group(status_table(snapshot), report_table(snapshot)))


class Lines:
    """Prints a line with the number of tasks per status when these numbers have changed, but
    not too often."""

    def __init__(self):
        self._printed_at = float("-inf")
        self._counts = None

    def show(self, snapshot):
        """Print a snapshot, unless it equals the last one or comes too soon after it."""
        is_due = snapshot.is_final or time.monotonic() - self._printed_at >= LINE_SECONDS
        if snapshot.counts == self._counts or not is_due:
            return
        self._printed_at = time.monotonic()
        self._counts = snapshot.counts
        numbers = [f"{status} {snapshot.counts.get(status, 0)}" for status in STATUSES]
        console.print("  ".join(numbers))
        for task in snapshot.reports:
            if task.status == "running":
                console.print(f"  {task.description}: {task.progress or 0:.0f} %")
        if snapshot.is_final:
            console.print(f"  failed: {snapshot.errors['failed']}")


def status_table(snapshot):
    """Return a table with a bar per status."""
    total = sum(TRACKED.values())
    table = Table(title=f"{total:,} tracked messages, {UNTRACKED} untracked")
    table.add_column("status")
    table.add_column("tasks", justify="right")
    table.add_column("", width=BAR_WIDTH)
    table.add_column("error", width=ERROR_WIDTH)
    for status in STATUSES:
        number = snapshot.counts.get(status, 0)
        color = COLORS.get(status, "cyan")
        bar = f"[{color}]{'█' * round(BAR_WIDTH * number / total)}[/]"
        table.add_row(status, str(number), bar, escape(snapshot.errors.get(status, "")))
    return table


def report_table(snapshot):
    """Return a table with a progress bar per report."""
    table = Table(title="Progress of the reports")
    table.add_column("task")
    table.add_column("status", width=max(map(len, STATUSES)))
    table.add_column("", width=BAR_WIDTH)
    table.add_column("", justify="right", width=5)
    for task in snapshot.reports:
        percent = task.progress or 0.0
        bar = "█" * round(BAR_WIDTH * percent / 100)
        table.add_row(task.description, task.status, f"[green]{bar}[/]", f"{percent:.0f} %")
    return table
