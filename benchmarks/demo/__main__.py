"""``make demo``: shows what this package does.

The demo sends 2,000 tracked messages that succeed, fail, are retried, skipped or delayed, and 500
untracked ones.  Workers process them while the terminal and a web page show the tasks by status.
At the end the demo prints how many SQL statements that took, next to the number that writing each
transition on its own takes.  On a terminal the page then stays available until Enter is pressed.
"""

import contextlib
import logging
import os
import sys
import tempfile
import time
import uuid
from pathlib import Path

import django
from rich.markup import escape

from benchmarks.demo.console import console

#: How many messages are sent between two updates of the display.
MESSAGES_PER_STEP = 100
STEP_SECONDS = 0.1
LIMIT_SECONDS = 180


def main():
    """Run the demo; return the exit status."""
    with tempfile.TemporaryDirectory() as records:
        os.environ.update(
            DJANGO_SETTINGS_MODULE="benchmarks.demo.website.settings",
            DEMO_MIDDLEWARE="benchmarks.demo.project.recording.RecordingStateMiddleware",
            DEMO_RECORD=records,
        )
        django.setup()
        # These modules need the settings.
        from benchmarks.demo import summary
        from benchmarks.demo.website.server import serve
        from benchmarks.demo.website.users import FIRST, make_users
        from benchmarks.demo.workers import workers

        # Some actors fail on purpose, and Dramatiq would log each traceback.
        logging.getLogger("dramatiq").setLevel(logging.CRITICAL)
        if not prepare():
            return 1
        run = f"demo-{uuid.uuid4().hex[:8]}"
        user = make_users()[FIRST]
        with serve() as address:
            console.print(f"Watch the tasks at [bold]{address}[/]. You are signed in as {FIRST}.")
            started = time.monotonic()
            with workers():
                is_finished = send_and_show(run, user)
            seconds = time.monotonic() - started
            if not is_finished:
                return 1
            summary.show(run, Path(records), seconds)
            stay(address)
    return 0


def stay(address):
    """On a terminal, keep the page and workers for its buttons until Enter or Ctrl-C is
    pressed."""
    if not sys.stdin.isatty():
        return
    # It needs the settings.
    from benchmarks.demo.workers import workers

    with workers():
        console.print(f"[bold]{address}[/] stays until you press Enter.")
        with contextlib.suppress(EOFError, KeyboardInterrupt):
            input()


def prepare():
    """Create the tables, and remove from the queue what an earlier run has left there; return
    whether the database and the broker answered."""
    # These modules need the settings.
    import dramatiq
    from django.core.management import call_command
    from django.db import connections

    from benchmarks import services
    from benchmarks.demo.project import settings, tasks
    from benchmarks.demo.summary import SCRATCH

    database, broker = map(services.redacted, (settings.DATABASE, settings.BROKER))
    console.print(f"Database {database}, broker {broker}")
    try:
        connections["default"].ensure_connection()
    except Exception as error:  # noqa: BLE001 - each driver raises its own errors
        console.print(f"[red]The database does not answer:[/] {escape(str(error))}")
        console.print("Start the server and create the database. The demo creates the tables.")
        return False
    try:
        dramatiq.get_broker().declare_queue(tasks.QUEUE)
        dramatiq.get_broker().flush(tasks.QUEUE)
    except Exception as error:  # noqa: BLE001 - each client raises its own errors
        console.print(f"[red]The broker does not answer:[/] {escape(str(error))}")
        console.print("Start the server, or name another one in BROKER.")
        return False
    for alias in ("default", SCRATCH):
        call_command("migrate", database=alias, verbosity=0)
    return True


def send_and_show(run, user):
    """Send the messages, and show their tasks until all are final; return False if that takes
    too long."""
    # These modules need the settings.
    from benchmarks.demo.display import display
    from benchmarks.demo.messages import EXPECTED, send
    from benchmarks.demo.snapshot import Snapshot

    messages = send(run, user)
    deadline = time.monotonic() + LIMIT_SECONDS
    is_sending = True
    with display() as show:
        while time.monotonic() < deadline:
            for _ in range(MESSAGES_PER_STEP):
                is_sending = next(messages, None) is not None
            snapshot = Snapshot.take(run)
            show(snapshot)
            if not is_sending and snapshot.is_final:
                return True
            time.sleep(STEP_SECONDS)
    console.print(
        f"[red]The number of tasks by status is {snapshot.counts} after {LIMIT_SECONDS} seconds. "
        f"Expected: {EXPECTED}.[/]\n"
        "Look into the workers' log, and check that the broker and the database answer."
    )
    return False


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        console.print("Interrupted.")
        sys.exit(130)
