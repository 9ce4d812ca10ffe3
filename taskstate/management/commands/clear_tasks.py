"""``manage.py clear_tasks``: delete every task for good, or those that are old."""

from __future__ import annotations

import math
import time
from typing import Any, Callable

from django.core.management.base import BaseCommand, CommandError, CommandParser, OutputWrapper
from django.db import DatabaseError
from django.db.models import Count

import taskstate
from taskstate import conf, retention
from taskstate.management import texts
from taskstate.management.arguments import parse_age
from taskstate.models import Status, TaskQuerySet
from taskstate.stores import watermark
from taskstate.stores.errors import is_contention
from taskstate.transitions import FINISHED

#: How often a long run shows its progress where it can't redraw a line.
BATCHES_PER_LINE = 10

#: How often it redraws its line on a terminal, in seconds.
REDRAW_SECONDS = 0.2

LINE_WIDTH = 70

#: How long to wait for this process's own pending states, and for other processes' flushes.
WAIT_SECONDS = 60.0


class Command(BaseCommand):
    """Deletes every task, whatever its status, or the old ones of some statuses."""

    help = (
        "Delete every task, whatever its status. States that are still waiting in some process "
        "don't bring rows back; a task that goes on appears again with its next state. With "
        "--older-than or --status, delete only the tasks that fit."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add what selects tasks, and what skips the question."""
        parser.add_argument(
            "--older-than",
            metavar="AGE",
            help="Only tasks that have not changed for this long: 90s, 15m, 6h or 30d; at least "
            "60s, which is the default with --status.",
        )
        parser.add_argument(
            "--status",
            action="append",
            choices=Status.values,
            help="Only tasks of this status; repeat it for several. With --older-than, the default "
            f"is {', '.join(FINISHED)}.",
        )
        parser.add_argument(
            "--batch-size",
            type=int,
            default=retention.BATCH_SIZE,
            metavar="ROWS",
            help=f"Rows in a transaction, 1 to {retention.MAX_BATCH_SIZE:,}; the default is "
            f"{retention.BATCH_SIZE:,}.",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Say how many tasks would be deleted, and delete nothing.",
        )
        parser.add_argument(
            "--yes",
            "--noinput",
            "--no-input",
            action="store_true",
            dest="yes",
            help="Don't ask before deleting.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Select, ask, delete; to delete all, flush before and close the fence."""
        try:
            retention.check_batch_size(options["batch_size"])
            # Not by their truth: --older-than "" is a variable that isn't set, and not all tasks.
            if options["older_than"] is None and options["status"] is None:
                self._handle_all(options)
            else:
                self._handle_old(options)
        except ValueError as error:
            raise CommandError(str(error)) from error

    def _handle_all(self, options: dict[str, Any]) -> None:
        if options["dry_run"]:
            self._count(retention.all_tasks())
            return
        _flush()
        total = self._ask(retention.all_tasks(), "", options)
        self.stdout.write("Waiting for processes that are writing task states ...")
        _close_fence()
        self._delete(retention.all_tasks(), total, options)

    def _handle_old(self, options: dict[str, Any]) -> None:
        """Without a fence: what is pending in some process is mostly of other tasks, and has to be
        written."""
        age = options["older_than"]
        older_than = retention.MIN_AGE if age is None else parse_age("--older-than", age)
        statuses = FINISHED if options["status"] is None else options["status"]
        tasks = retention.old_tasks(older_than, statuses)
        if options["dry_run"]:
            self._count(tasks)
            return
        which = f" ({', '.join(statuses)}; unchanged for {age or '60s'})"
        self._delete(tasks, self._ask(tasks, which, options), options)

    def _count(self, tasks: TaskQuerySet) -> None:
        counts = dict(tasks.order_by().values_list("status").annotate(Count("pk")))
        for status in Status.values:
            if status in counts:
                self.stdout.write(f"{status:8} {counts[status]:>13,}")
        self.stdout.write(f"Would delete {texts.tasks(sum(counts.values()))}.")

    def _ask(self, tasks: TaskQuerySet, which: str, options: dict[str, Any]) -> int | None:
        """Return how many there are, if somebody has to agree to that."""
        if options["yes"]:
            return None
        total = tasks.count()
        question = f"Delete {texts.tasks(total)}{which} from the database {tasks.db!r}? [y/N] "
        try:
            answer = input(question)
        except EOFError:
            answer = ""
        if answer.strip().lower() not in {"y", "yes"}:
            raise CommandError("Nothing was deleted.")
        return total

    def _delete(self, tasks: TaskQuerySet, total: int | None, options: dict[str, Any]) -> None:
        progress = _Progress(self.stdout, total)
        try:
            for deleted in retention.delete(tasks, options["batch_size"]):
                progress.add(deleted)
        except DatabaseError as error:
            if not is_contention(error):
                raise
            raise CommandError(
                f"Another transaction holds tasks that are to be deleted. {progress.deleted:,} "
                "were deleted before; find it in the database, or try again."
            ) from error
        finally:
            progress.end()
        self.stdout.write(self.style.SUCCESS(f"Deleted {texts.tasks(progress.deleted)}."))


class _Progress:
    """Shows how far it is: on a terminal in one line that changes, else in a line now and then.

    Parameters:
      out(OutputWrapper): Where to.
      total(int | None): How many rows there are to delete, if that is known.
      clock(Callable): Seconds, for the speed.
    """

    def __init__(
        self,
        out: OutputWrapper,
        total: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.deleted = 0
        self._out = out
        self._total = total
        self._clock = clock
        self._is_terminal = out.isatty()
        self._batches = 0
        self._began_at = clock()
        self._drawn_at = -math.inf

    def add(self, deleted: int) -> None:
        """Count another batch."""
        self.deleted += deleted
        self._batches += 1
        if not self._is_terminal:
            if self._batches % BATCHES_PER_LINE == 0:
                self._out.write(f"{self.deleted:,} deleted so far ...")
        elif self._clock() >= self._drawn_at + REDRAW_SECONDS:
            self._drawn_at = self._clock()
            self._draw(self._text())

    def end(self) -> None:
        """Remove the line that changes."""
        if self._drawn_at > -math.inf:
            self._draw("")
            self._out.write("\r", ending="")

    def _text(self) -> str:
        per_second = self.deleted / max(self._clock() - self._began_at, 1e-3)
        of = f" of {self._total:,} ({self.deleted / self._total:.0%})" if self._total else ""
        return f"{self.deleted:,}{of} deleted, {per_second:,.0f} per second"

    def _draw(self, text: str) -> None:
        # As wide as the longest one, so that nothing of the last one stays.
        self._out.write(f"\r{text:<{LINE_WIDTH}}", ending="")
        self._out.flush()


def _flush() -> None:
    if not taskstate.flush(timeout=WAIT_SECONDS):
        raise CommandError(
            f"This process could not write its own pending states within {WAIT_SECONDS:.0f} "
            f"seconds: {taskstate.stats().last_error}. Nothing was deleted; try again when "
            "the database answers."
        )


def _close_fence() -> None:
    if not watermark.close(conf.tasks_database(), timeout=WAIT_SECONDS):
        raise CommandError(
            f"A process has been writing task states for {WAIT_SECONDS:.0f} seconds, and they "
            "can't be told from what is to be deleted. Nothing was deleted; find its "
            "transaction in the database, or try again."
        )
