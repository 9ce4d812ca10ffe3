"""``manage.py check_tasks``: find tasks that have not been updated for a long time."""

from __future__ import annotations

import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections
from django.db.models.expressions import RawSQL
from django.utils import timezone

from taskstate.management import texts
from taskstate.management.arguments import parse_age
from taskstate.management.output import Output
from taskstate.middleware import StateMiddleware
from taskstate.models import Status, Task, TaskQuerySet
from taskstate.signals import task_changed
from taskstate.stores.clock import current_time_sql
from taskstate.transitions.status import LOST_ERROR
from taskstate.utils.durations import local

PAGE_SIZE = 1000


class Command(BaseCommand):
    """Lists the tasks that seem to be lost, or marks them as failed."""

    help = (
        "List the enqueued and running tasks that have not been updated for longer than a given "
        "age, oldest first: their worker may have been killed, or their message lost. Delayed "
        "tasks are not listed. The exit status is 1 if tasks were found and not marked."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the age, and the option that marks tasks."""
        parser.add_argument(
            "--older-than",
            default="1d",
            metavar="AGE",
            help="List tasks that have not been updated for this long: 90s, 15m, 6h or 30d. The "
            "default is 1d. Use an age greater than your longest task and your longest wait in a "
            "queue.",
        )
        parser.add_argument(
            "--mark-failed",
            action="store_true",
            help=f"Mark these tasks as failed, with the error {LOST_ERROR!r}. If a task is still "
            "running after all, its next state replaces that.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """List the tasks, or mark them."""
        age = options["older_than"]
        stale = _StaleTasks(before=timezone.now() - parse_age("--older-than", age))
        with Output(self.stdout) as out:
            if options["mark_failed"]:
                self._mark(stale, age, out)
            else:
                self._list(stale, age, out)

    def _list(self, stale: _StaleTasks, age: str, out: Output) -> None:
        found = 0
        for task in stale.tasks().iterator(PAGE_SIZE):
            out.write_values(_line(task))
            found += 1
        if found:
            raise CommandError(f"{_found(found, age)} Use --mark-failed to mark them as failed.")
        out.write(self.style.SUCCESS(_found(found, age)))

    def _mark(self, stale: _StaleTasks, age: str, out: Output) -> None:
        marked, marked_before = 0, -1
        # Page by page, until no more can be marked: a marked task is not found again.
        while marked > marked_before:
            marked_before = marked
            lines = []
            for task in stale.tasks()[:PAGE_SIZE]:
                line = _line(task)
                if stale.mark_failed(task):
                    lines.append(line)
            # Only now, so that a pager that waits for its user does not delay the marking.
            for line in lines:
                out.write_values(line)
            marked += len(lines)
        text = f"Marked {texts.tasks(marked)} as failed: no update for {age}."
        out.write(self.style.SUCCESS(text))


class _StaleTasks:
    """The enqueued and running tasks whose last transition happened before a time."""

    def __init__(self, before: datetime.datetime) -> None:
        self._before = before

    def tasks(self) -> TaskQuerySet:
        """Return the tasks, oldest first.  Delayed tasks are left out: they wait on purpose."""
        statuses = [Status.ENQUEUED, Status.RUNNING]
        tasks = Task.objects.filter(status__in=statuses, updated_at__lt=self._before)
        return tasks.order_by("updated_at")

    def mark_failed(self, task: Task) -> bool:
        """Mark a task as failed and send ``task_changed``, unless it has changed since it was read.

        The rank stays the same, so that any later state of the task replaces this one.

        Returns:
          bool: Whether the task was marked.
        """
        now = timezone.now()
        changes = {
            "status": Status.FAILED,
            "error": LOST_ERROR,
            "user_error": None,  # It belongs to an earlier attempt, as does the traceback.
            "traceback": None,
            "finished_at": now,
            "updated_at": now,
        }
        tasks = self.tasks().filter(pk=task.pk, stamp=task.stamp, rank=task.rank)
        # By the database's clock, as a cursor for clients that poll for changes.
        written_at = RawSQL(current_time_sql(connections[tasks.db]), [])  # noqa: S611 - ours
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
    return f"{texts.tasks(count)} {be} enqueued or running and {have} not been updated for {age}."
