"""``manage.py clear_tasks``: delete all tasks, or only old ones."""

from __future__ import annotations

import math
import time
from typing import Any, Callable

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError
from django.db.models import Count

import taskstate
from taskstate import conf, retention
from taskstate.management import texts
from taskstate.management.arguments import parse_age
from taskstate.management.output import Output
from taskstate.models import Status, TaskQuerySet
from taskstate.stores.errors import is_contention
from taskstate.stores.fence import raise_fence
from taskstate.transitions.status import FINISHED
from taskstate.utils.percentages import format_percent

#: After how many batches a line of progress is written, if the output is not a terminal.
BATCHES_PER_LINE = 10

#: How often the line of progress is redrawn in a terminal, in seconds.
REDRAW_SECONDS = 0.2

LINE_WIDTH = 70

#: How long to wait until this process has written its pending states, and other processes have
#: finished their flushes.
WAIT_SECONDS = 60.0


class Command(BaseCommand):
    """Deletes all tasks, or only the old ones with certain statuses."""

    help = (
        "Delete all tasks, whatever their status. States that a process has not written yet don't "
        "bring a row back; a task that is still running appears again with its next state. With "
        "--older-than or --status, delete only the tasks that match."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options that select tasks, and the one that skips the question."""
        parser.add_argument(
            "--older-than",
            metavar="AGE",
            help="Delete only tasks that have not been updated for this long: 90s, 15m, 6h or 30d. "
            "The minimum is 60s, which is also the default if --status is given.",
        )
        parser.add_argument(
            "--status",
            action="append",
            choices=Status.values,
            help="Delete only tasks with this status. Repeat it for several. With --older-than, "
            f"the default is {', '.join(FINISHED)}.",
        )
        parser.add_argument(
            "--batch-size",
            type=int,
            default=retention.BATCH_SIZE,
            metavar="ROWS",
            help=f"Delete this many rows in one transaction, 1 to {retention.MAX_BATCH_SIZE:,}. "
            f"The default is {retention.BATCH_SIZE:,}.",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Show how many tasks would be deleted, without deleting them.",
        )
        parser.add_argument(
            "--yes",
            "--noinput",
            "--no-input",
            action="store_true",
            dest="yes",
            help="Delete without asking for confirmation.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Select the tasks, ask for confirmation, and delete them."""
        try:
            retention.check_batch_size(options["batch_size"])
            # Not by truth value: --older-than "" comes from an unset variable in a script, and must
            # not delete all tasks.
            with Output(self.stdout) as out:
                if options["older_than"] is None and options["status"] is None:
                    self._handle_all(options, out)
                else:
                    self._handle_old(options, out)
        except ValueError as error:
            raise CommandError(str(error)) from error

    def _handle_all(self, options: dict[str, Any], out: Output) -> None:
        """Delete all tasks.  The fence keeps pending states from bringing rows back."""
        if options["dry_run"]:
            self._count(retention.all_tasks(), out)
            return
        _flush()
        total = self._ask(retention.all_tasks(), "", options)
        out.write("Waiting for other processes to finish writing task states ...")
        _raise_fence()
        self._delete(retention.all_tasks(), total, options, out)

    def _handle_old(self, options: dict[str, Any], out: Output) -> None:
        """Delete without raising the fence: most of what is pending in a process belongs to other
        tasks, and has to be written."""
        age = options["older_than"]
        older_than = retention.MIN_AGE if age is None else parse_age("--older-than", age)
        statuses = FINISHED if options["status"] is None else options["status"]
        tasks = retention.old_tasks(older_than, statuses)
        if options["dry_run"]:
            self._count(tasks, out)
            return
        which = f" ({', '.join(statuses)}; unchanged for {age or '60s'})"
        self._delete(tasks, self._ask(tasks, which, options), options, out)

    def _count(self, tasks: TaskQuerySet, out: Output) -> None:
        counts = dict(tasks.order_by().values_list("status").annotate(Count("pk")))
        for status in Status.values:
            if status in counts:
                out.write(f"{status:8} {counts[status]:>13,}")
        out.write(f"Would delete {texts.tasks(sum(counts.values()))}.")

    def _ask(self, tasks: TaskQuerySet, which: str, options: dict[str, Any]) -> int | None:
        """Ask for confirmation.  Return how many tasks there are, or None if --yes was given."""
        if options["yes"]:
            return None
        total = tasks.count()
        question = f"Delete {texts.tasks(total)}{which} from the database {tasks.db!r}? [y/N] "
        try:
            answer = input(question)
        except EOFError:
            answer = ""
        except (OSError, RuntimeError, UnicodeError) as error:
            # The input or the output is closed, or its encoding lacks a character of the question.
            raise CommandError(
                f"Nothing was deleted: the question could not be asked ({error}). Use --yes to "
                "skip it."
            ) from error
        if answer.strip().lower() not in {"y", "yes"}:
            raise CommandError("Nothing was deleted.")
        return total

    def _delete(
        self, tasks: TaskQuerySet, total: int | None, options: dict[str, Any], out: Output
    ) -> None:
        progress = _Progress(out, total)
        try:
            for deleted in retention.delete(tasks, options["batch_size"]):
                progress.add(deleted)
        except DatabaseError as error:
            if not is_contention(error):
                raise
            raise CommandError(
                f"Another transaction holds tasks that are to be deleted; {progress.deleted:,} "
                "were deleted before. End that transaction, or try again later."
            ) from error
        finally:
            progress.end()
        out.write(self.style.SUCCESS(f"Deleted {texts.tasks(progress.deleted)}."))


class _Progress:
    """Shows the progress: in a terminal by redrawing one line, else by a new line now and then.

    Parameters:
      out(Output): The output.
      total(int | None): How many rows are to be deleted, if known.
      clock(Callable): Returns the time in seconds.
    """

    def __init__(
        self,
        out: Output,
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
        """Count the rows of another batch."""
        self.deleted += deleted
        self._batches += 1
        if not self._is_terminal:
            if self._batches % BATCHES_PER_LINE == 0:
                self._out.write(f"{self.deleted:,} deleted so far ...")
        elif self._clock() >= self._drawn_at + REDRAW_SECONDS:
            self._drawn_at = self._clock()
            self._draw(self._text())

    def end(self) -> None:
        """Erase the line in the terminal."""
        if self._drawn_at > -math.inf:
            self._draw("")
            self._out.write("\r", ending="")

    def _text(self) -> str:
        per_second = self.deleted / max(self._clock() - self._began_at, 1e-3)
        of = ""
        if self._total:
            percent = format_percent(100 * self.deleted / self._total)
            of = f" of {self._total:,} ({percent})"
        return f"{self.deleted:,}{of} deleted, {per_second:,.0f} per second"

    def _draw(self, text: str) -> None:
        # Filled up with spaces, so that nothing of the previous text remains.
        self._out.write(f"\r{text:<{LINE_WIDTH}}", ending="")
        self._out.flush()


def _flush() -> None:
    if not taskstate.flush(timeout=WAIT_SECONDS):
        raise CommandError(
            f"This process could not write its own pending task states within {WAIT_SECONDS:.0f} "
            f"seconds: {taskstate.stats().last_error}. Nothing was deleted. Try again when the "
            "database is available."
        )


def _raise_fence() -> None:
    if not raise_fence(conf.tasks_database(), timeout=WAIT_SECONDS):
        raise CommandError(
            f"A process has been writing task states for {WAIT_SECONDS:.0f} seconds, and its rows "
            "can't be distinguished from those to be deleted. Nothing was deleted; find its "
            "transaction in the database and end it, or try again later."
        )
