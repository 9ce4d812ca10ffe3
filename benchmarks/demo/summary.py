"""What a run cost, next to the cost of writing each transition on its own.  Both are counted."""

import datetime
import json

from django.db import connections
from rich.progress import track
from rich.table import Table

from benchmarks.demo.console import console
from benchmarks.demo.messages import TRACKED, UNTRACKED
from benchmarks.statements import StatementCounter
from taskstate.models import Task

#: The alias of the database that the transitions are written to one by one.
SCRATCH = "scratch"


def show(run, folder, seconds):
    """Print the summary of a run.

    Parameters:
      folder(Path): Where each process has saved its record.
      seconds(float): How long the run took.
    """
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    transitions = [transition for record in records for transition in record["transitions"]]
    statements = sum(record["statements"] for record in records)
    flushes = sum(record["stats"]["flushes"] for record in records)
    messages = sum(TRACKED.values()) + UNTRACKED
    rows = Task.objects.filter(app_name=run).count()
    alone_statements = write_each(transitions)
    alone_rows = Task.objects.using(SCRATCH).count()

    processes = "1 process" if len(records) == 1 else f"{len(records)} processes"
    table = Table(title=f"What it took, in {seconds:.1f} seconds and {processes}")
    table.add_column("")
    table.add_column("taskstate", justify="right")
    table.add_column("each transition\nwritten on its own", justify="right")
    for name, ours, alone in (
        ("messages", messages, messages),
        ("transitions seen", len(transitions), len(transitions)),
        ("rows", rows, alone_rows),
        ("flushes", flushes, len(transitions)),
        ("SQL statements", statements, alone_statements),
    ):
        table.add_row(name, f"{ours:,}", f"{alone:,}")
    console.print(table)
    console.print(
        f"{alone_statements / statements:,.0f} times fewer statements. For the right column, the "
        "same transitions were written by update_or_create() to a temporary SQLite database."
    )


def write_each(transitions):
    """Write the transitions one by one to the scratch database; return the number of SQL
    statements."""
    counter = StatementCounter()
    now = datetime.datetime.now(tz=datetime.timezone.utc)
    title = "Writing each transition on its own"
    if not console.is_terminal:
        console.print(f"{title} ...")
    steps = track(transitions, description=title, console=console, transient=True)
    with connections[SCRATCH].execute_wrapper(counter):
        for message_id, status, attempt in steps:
            values = {"status": status, "attempt": attempt, "enqueued_at": now, "updated_at": now}
            values["stamp"] = values["rank"] = 0
            Task.objects.using(SCRATCH).update_or_create(message_id=message_id, defaults=values)
    return counter.count
