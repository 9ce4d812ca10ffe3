"""``manage.py check_tasks``: find tasks of which nothing was heard for long."""

from __future__ import annotations

import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections
from django.db.models.expressions import RawSQL
from django.utils import timezone

from taskstate.management import texts
from taskstate.management.arguments import parse_age
from taskstate.middleware import StateMiddleware
from taskstate.models import Status, Task, TaskQuerySet
from taskstate.signals import task_changed
from taskstate.stores import watermark
from taskstate.times import local
from taskstate.transitions import LOST

PAGE_SIZE = 1000


class Command(BaseCommand):
    """Lists the tasks that seem to be lost, and marks them as failed if it is told to."""

    help = (
        "List the enqueued and running tasks that have not been heard of for longer than a given "
        "age, oldest first: their worker may have been killed, or their message lost. Delayed "
        "tasks are left alone. The exit status is 1 if any were found and not marked."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the age, and the flag that changes rows."""
        parser.add_argument(
            "--older-than",
            default="1d",
            metavar="AGE",
            help="How long nothing was heard of a task: 90s, 15m, 6h or 30d; the default is 1d. "
            "Take more than the longest task and the longest queue.",
        )
        parser.add_argument(
            "--mark-failed",
            action="store_true",
            help=f"Mark them as failed, with the error {LOST!r}. If a task went on after all, its "
            "next state wins.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """List, and mark."""
        age = options["older_than"]
        silent = _Silent(since=timezone.now() - parse_age("--older-than", age))
        if options["mark_failed"]:
            self._mark(silent, age)
        else:
            self._list(silent, age)

    def _list(self, silent: _Silent, age: str) -> None:
        found = 0
        for task in silent.tasks().iterator(PAGE_SIZE):
            self.stdout.write(_line(task))
            found += 1
        if found:
            raise CommandError(f"{_found(found, age)} --mark-failed marks such tasks as failed.")
        self.stdout.write(self.style.SUCCESS(_found(found, age)))

    def _mark(self, silent: _Silent, age: str) -> None:
        marked, marked_before = 0, -1
        # Page by page, until nothing more can be marked: what is marked isn't found again.
        while marked > marked_before:
            marked_before = marked
            for task in silent.tasks()[:PAGE_SIZE]:
                line = _line(task)
                if silent.mark_failed(task):
                    self.stdout.write(line)
                    marked += 1
        text = f"Marked {texts.tasks(marked)} as failed, not heard of for {age}."
        self.stdout.write(self.style.SUCCESS(text))


class _Silent:
    """The tasks that are enqueued or running, and of which nothing was heard after ``since``."""

    def __init__(self, since: datetime.datetime) -> None:
        self._since = since

    def tasks(self) -> TaskQuerySet:
        """Return them, oldest first.  A delayed one may wait for as long as it was told to."""
        statuses = [Status.ENQUEUED, Status.RUNNING]
        tasks = Task.objects.filter(status__in=statuses, updated_at__lt=self._since)
        return tasks.order_by("updated_at")

    def mark_failed(self, task: Task) -> bool:
        """Mark a task as failed and tell of it, unless it was heard of meanwhile.

        Its rank stays: to whoever writes states the row is what it was before, and the next state
        of a task that went on is written over it.

        Returns:
          bool: Whether it was marked.
        """
        now = timezone.now()
        changes = {
            "status": Status.FAILED,
            "error": LOST,
            "traceback": None,  # Of an earlier attempt.
            "finished_at": now,
            "updated_at": now,
        }
        tasks = self.tasks().filter(pk=task.pk, rank=task.rank)
        # For those who follow what changes, by the database's clock.
        written_at = RawSQL(watermark.clock_of(connections[tasks.db]), [])  # noqa: S611 - ours
        if not tasks.update(**changes, written_at=written_at):
            return False
        for name, value in changes.items():
            setattr(task, name, value)
        task_changed.send_robust(sender=StateMiddleware, task=task, transitions=(Status.FAILED,))
        return True


def _line(task: Task) -> str:
    time = f"{local(task.updated_at):%Y-%m-%d %H:%M:%S}"
    return f"{time}  {task.status:8}  {task.message_id}  {task.actor_name}  {task.description}"


def _found(count: int, age: str) -> str:
    be, have = ("is", "has") if count == 1 else ("are", "have")
    return f"{texts.tasks(count)} {be} enqueued or running, and {have} not been heard of for {age}."
