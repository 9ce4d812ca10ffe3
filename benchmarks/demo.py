"""``make demo``: the main job, shown.

Sends 2,000 tracked messages that end in every way, and 500 untracked ones, lets workers
process them, and shows the tasks by status while they change, here and on a page.  It ends with
what that took, beside what writing each transition on its own would have taken: both are counted.
On a terminal the page then stays until Enter is pressed.
"""

import contextlib
import datetime
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import django
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import track
from rich.table import Table

STATUSES = ("enqueued", "delayed", "running", "done", "failed", "skipped")
TRACKED = {
    "report": 4,
    "succeed": 1196,
    "delayed": 300,
    "fail_once": 250,
    "fail_for_good": 150,
    "skip": 100,
}
UNTRACKED = 500
EXPECTED = {"done": 1750, "failed": 150, "skipped": 100}

SENT_AT_ONCE = 100
TICK_SECONDS = 0.1
LIMIT_SECONDS = 180
BAR_WIDTH = 30
WHY_WIDTH = 34
#: How long a report takes: it is there to show its progress.
REPORT_SECONDS = 4.0
#: So many of each kind are sent for the user who sees the page, which shows 25.
OF_USER = 4

console = Console()


def main():
    """Run the demo; return the exit status."""
    with tempfile.TemporaryDirectory() as record:
        os.environ.update(
            DJANGO_SETTINGS_MODULE="benchmarks.website.settings",
            DEMO_MIDDLEWARE="benchmarks.project.recording.RecordingStateMiddleware",
            DEMO_RECORD=record,
        )
        django.setup()
        # Here, because these need the settings.
        from benchmarks.website.server import serve
        from benchmarks.website.users import FIRST, make_users

        # The actors are meant to fail; Dramatiq would log each traceback.
        logging.getLogger("dramatiq").setLevel(logging.CRITICAL)
        if not prepare():
            return 1
        run = f"demo-{uuid.uuid4().hex[:8]}"
        user = make_users()[FIRST]
        with serve() as address:
            console.print(f"[bold]{address}[/] shows it live, to {FIRST}, who is signed in there.")
            started = time.monotonic()
            with workers():
                finished = watch(run, user)
            took = time.monotonic() - started
            if not finished:
                return 1
            report(run, Path(record), took)
            stay(address)
    return 0


def stay(address):
    """Keep the page, and workers for its buttons, until Enter or Ctrl-C, if somebody is there."""
    if not sys.stdin.isatty():
        return
    with workers():
        console.print(f"[bold]{address}[/] stays until you press Enter.")
        with contextlib.suppress(EOFError, KeyboardInterrupt):
            input()


def prepare():
    """Make the tables, and empty the queue of what an earlier run has left; return whether the
    database and the broker answered."""
    import dramatiq
    from django.core.management import call_command
    from django.db import connections

    from benchmarks.project import services, settings, tasks

    database, broker = map(services.redacted, (settings.DATABASE, settings.BROKER))
    console.print(f"Database {database}, broker {broker}")
    try:
        connections["default"].ensure_connection()
    except Exception as error:  # noqa: BLE001 - a driver's own, whichever it is
        console.print(f"[red]The database does not answer:[/] {escape(str(error))}")
        console.print("The database has to be there; the demo makes its tables.")
        return False
    try:
        dramatiq.get_broker().declare_queue(tasks.QUEUE)
        dramatiq.get_broker().flush(tasks.QUEUE)
    except Exception as error:  # noqa: BLE001 - a client's own, whichever it is
        console.print(f"[red]The broker does not answer:[/] {escape(str(error))}")
        return False
    for alias in ("default", "scratch"):
        call_command("migrate", database=alias, verbosity=0)
    return True


@contextlib.contextmanager
def workers():
    """Process messages meanwhile: in this process, or in two of ``rundramatiq``."""
    import dramatiq
    from dramatiq.brokers.stub import StubBroker

    import benchmarks.project.tasks  # noqa: F401 - declares the actors
    import taskstate

    broker = dramatiq.get_broker()
    if isinstance(broker, StubBroker):
        worker = dramatiq.Worker(broker, worker_threads=8, worker_timeout=100)
        worker.start()
        try:
            yield
        finally:
            worker.stop()
    else:
        with rundramatiq():
            yield
    taskstate.flush(timeout=30)
    for middleware in broker.middleware:
        if hasattr(middleware, "save"):
            middleware.save()


@contextlib.contextmanager
def rundramatiq():
    """Run worker processes; stop them with SIGTERM, as a service manager would."""
    from benchmarks.project.settings import VAR

    command = [sys.executable, "-m", "django", "rundramatiq", "--processes", "2", "--threads", "4"]
    with (VAR / "workers.log").open("w") as log:
        console.print(f"$ {' '.join(command[1:])}   (its log is {log.name})")
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=60)


def watch(run, user):
    """Send the messages, and show the tasks by status until all are final."""
    messages = send(run, user)
    deadline = time.monotonic() + LIMIT_SECONDS
    sending = True
    with display() as show:
        while time.monotonic() < deadline:
            for _ in range(SENT_AT_ONCE):
                sending = next(messages, None) is not None
            counts = count(run)
            show(counts, reports(run), reasons(run))
            if not sending and counts == EXPECTED:
                return True
            time.sleep(TICK_SECONDS)
    console.print(
        f"[red]After {LIMIT_SECONDS} seconds the tasks are {counts}, and should be {EXPECTED}.[/]\n"
        "Look at the workers' log, and whether the broker and the database answer."
    )
    return False


def send(run, user):
    """Send the messages one by one, mixed, some of them for a user; yield each."""
    from benchmarks.project import tasks

    def state(name, number):
        state = {"app_name": run, "model_name": "Demo", "description": f"{name} {number}"}
        if number % (TRACKED[name] // OF_USER) == 0:
            state["user_pk"] = user.pk
        return state

    senders = {
        "report": lambda s: tasks.report.send(REPORT_SECONDS, for_state=s),
        "succeed": lambda s: tasks.succeed.send(for_state=s),
        "delayed": lambda s: tasks.succeed.send_with_options(kwargs={"for_state": s}, delay=1500),
        "fail_once": lambda s: tasks.fail_once.send(1, for_state=s),
        "fail_for_good": lambda s: tasks.fail_for_good.send(for_state=s),
        "skip": lambda s: tasks.skip.send_with_options(kwargs={"for_state": s}, delay=50),
    }
    plan = [(i / n, name, i) for name, n in TRACKED.items() for i in range(n)]
    plan += [(i / UNTRACKED, None, i) for i in range(UNTRACKED)]
    for _, name, number in sorted(plan, key=lambda step: step[0]):
        yield senders[name](state(name, number)) if name else tasks.succeed.send()


def count(run):
    """Return how many tasks there are by status."""
    from django.db.models import Count

    from taskstate.models import Task

    rows = Task.objects.filter(app_name=run).order_by().values_list("status")
    return dict(rows.annotate(Count("pk")))


def reports(run):
    """Return the tasks that tell of their progress, oldest first."""
    from taskstate.models import Task

    return list(Task.objects.filter(app_name=run, actor_name="report").order_by("enqueued_at"))


def reasons(run):
    """Return why tasks have failed, or are delayed: a text by status."""
    from taskstate.models import Task

    found = Task.objects.filter(app_name=run, status__in=["delayed", "failed"]).order_by()
    return dict(found.exclude(error=None).values_list("status", "error").distinct())


@contextlib.contextmanager
def display():
    """Yield a function that shows counts, reports and reasons: tables in a terminal, lines
    elsewhere."""
    if console.is_terminal:
        with Live(console=console, refresh_per_second=10) as live:
            yield lambda counts, tasks, why: live.update(Group(bars(counts, why), progress(tasks)))
        return
    last = [float("-inf"), None]

    def line(counts, tasks, why):
        finished = counts == EXPECTED
        if counts != last[1] and (finished or time.monotonic() - last[0] >= 1):
            last[:] = [time.monotonic(), counts]
            console.print("  ".join(f"{status} {counts.get(status, 0)}" for status in STATUSES))
            for task in tasks:
                if task.status == "running":
                    console.print(f"  {task.description}: {task.progress or 0:.0f} %")
            if finished:
                console.print(f"  failed: {why['failed']}")

    yield line


def bars(counts, why):
    """Return a table with a bar per status."""
    total = sum(TRACKED.values())
    table = Table(title=f"{total:,} tracked messages, {UNTRACKED} untracked")
    table.add_column("status")
    table.add_column("tasks", justify="right")
    table.add_column("", width=BAR_WIDTH)
    table.add_column("why", width=WHY_WIDTH)
    for status in STATUSES:
        number = counts.get(status, 0)
        colour = {"done": "green", "failed": "red", "skipped": "yellow"}.get(status, "cyan")
        bar = "█" * round(BAR_WIDTH * number / total)
        table.add_row(status, str(number), f"[{colour}]{bar}[/]", escape(why.get(status, "")))
    return table


def progress(tasks):
    """Return a table with a bar per report."""
    table = Table(title="Reports, and how far they are")
    table.add_column("task")
    table.add_column("status", width=max(map(len, STATUSES)))
    table.add_column("", width=BAR_WIDTH)
    table.add_column("", justify="right", width=5)
    for task in tasks:
        percent = task.progress or 0.0
        bar = "█" * round(BAR_WIDTH * percent / 100)
        table.add_row(task.description, task.status, f"[green]{bar}[/]", f"{percent:.0f} %")
    return table


def report(run, record, took):
    """Show what the run took, and what writing each transition on its own would have."""
    from taskstate.models import Task

    parts = [json.loads(path.read_text()) for path in sorted(record.glob("*.json"))]
    transitions = [transition for part in parts for transition in part["transitions"]]
    statements = sum(part["statements"] for part in parts)
    flushes = sum(part["stats"]["flushes"] for part in parts)
    alone = write_each(transitions)
    messages = sum(TRACKED.values()) + UNTRACKED

    where = "1 process" if len(parts) == 1 else f"{len(parts)} processes"
    table = Table(title=f"What it took, in {took:.1f} seconds and {where}")
    table.add_column("")
    table.add_column("taskstate", justify="right")
    table.add_column("each transition\nwritten on its own", justify="right")
    table.add_row("messages", f"{messages:,}", f"{messages:,}")
    table.add_row("transitions seen", f"{len(transitions):,}", f"{len(transitions):,}")
    table.add_row("rows", f"{Task.objects.filter(app_name=run).count():,}", f"{rows_alone():,}")
    table.add_row("flushes", f"{flushes:,}", f"{len(transitions):,}")
    table.add_row("SQL statements", f"{statements:,}", f"{alone:,}")
    console.print(table)
    console.print(
        f"{alone / statements:,.0f} times fewer statements. The right column was counted: the "
        "same transitions went through update_or_create() into a scratch SQLite database."
    )


def write_each(transitions):
    """Write the transitions one by one to the scratch database; return the statements run."""
    from django.db import connections

    from benchmarks.statements import StatementCounter
    from taskstate.models import Task

    counter = StatementCounter()
    now = datetime.datetime.now(tz=datetime.timezone.utc)
    title = "Counting the alternative"
    if not console.is_terminal:
        console.print(f"{title} ...")
    steps = track(transitions, description=title, console=console, transient=True)
    with connections["scratch"].execute_wrapper(counter):
        for message_id, status, attempt in steps:
            values = {"status": status, "attempt": attempt, "enqueued_at": now, "updated_at": now}
            values["rank"] = 0
            Task.objects.using("scratch").update_or_create(message_id=message_id, defaults=values)
    return counter.count


def rows_alone():
    """Return how many rows the scratch database has."""
    from taskstate.models import Task

    return Task.objects.using("scratch").count()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        console.print("Interrupted.")
        sys.exit(130)
