"""``manage.py clear_tasks``: delete every task, for good."""

from __future__ import annotations

import itertools
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

import taskstate
from taskstate import conf
from taskstate.management import texts
from taskstate.models import Task
from taskstate.stores import watermark

BATCH_SIZE = 1000

#: How often a long run shows its progress.
BATCHES_PER_LINE = 10

#: How long to wait for this process's own pending states, and for other processes' flushes.
WAIT_SECONDS = 60.0


class Command(BaseCommand):
    """Deletes every task, whatever its status."""

    help = (
        "Delete every task, whatever its status. States that are still waiting in some process "
        "don't bring rows back; a task that goes on appears again with its next state."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options that skip the question."""
        parser.add_argument(
            "--yes",
            "--noinput",
            "--no-input",
            action="store_true",
            dest="yes",
            help="Don't ask before deleting.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Flush, ask, close the fence, delete."""
        alias = conf.tasks_database()
        if not taskstate.flush(timeout=WAIT_SECONDS):
            raise CommandError(
                f"This process could not write its own pending states within {WAIT_SECONDS:.0f} "
                f"seconds: {taskstate.stats().last_error}. Nothing was deleted; try again when "
                "the database answers."
            )
        if not options["yes"]:
            self._ask(Task.objects.using(alias).count(), alias)
        self.stdout.write("Waiting for processes that are writing task states ...")
        if not watermark.close(alias, timeout=WAIT_SECONDS):
            raise CommandError(
                f"A process has been writing task states for {WAIT_SECONDS:.0f} seconds, and they "
                "can't be told from what is to be deleted. Nothing was deleted; find its "
                "transaction in the database, or try again."
            )
        deleted = self._delete(alias)
        self.stdout.write(self.style.SUCCESS(f"Deleted {texts.tasks(deleted)}."))

    def _ask(self, count: int, alias: str) -> None:
        try:
            answer = input(f"Delete {texts.tasks(count)} from the database {alias!r}? [y/N] ")
        except EOFError:
            answer = ""
        if answer.strip().lower() not in {"y", "yes"}:
            raise CommandError("Nothing was deleted.")

    def _delete(self, alias: str) -> int:
        """Delete batch by batch, along the key: rows that come meanwhile can't make it endless."""
        deleted = 0
        tasks = Task.objects.using(alias).order_by("pk")
        rest = tasks
        for batch in itertools.count(1):
            keys = list(rest.values_list("pk", flat=True)[:BATCH_SIZE])
            if not keys:
                break
            # The range rather than the keys: SQLite limits how many parameters there may be.
            deleted += tasks.filter(pk__gte=keys[0], pk__lte=keys[-1]).delete()[0]
            rest = tasks.filter(pk__gt=keys[-1])
            if batch % BATCHES_PER_LINE == 0:
                self.stdout.write(f"{deleted:,} deleted so far ...")
        return deleted
