"""``manage.py watch_tasks``: the newest tasks in a terminal, while they change."""

from __future__ import annotations

import datetime
import os
import shutil
import time
from typing import Any, Callable, Iterable

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.management.color import no_style
from django.db import Error, close_old_connections
from django.utils import timezone

from taskstate.management import texts
from taskstate.management.arguments import parse_age
from taskstate.management.table import GAP, Alphabet, Column, lay_out
from taskstate.models import Status, Task, keys_of_users
from taskstate.stores.errors import describe
from taskstate.times import local, run_seconds

MAX_LIMIT = 10_000
#: In seconds.
SHORTEST_INTERVAL, LONGEST_INTERVAL = 0.1, 3_600.0

COLUMNS = (
    Column("AGE", 6),
    Column("STATUS", 8),
    Column("PROGRESS", 15),
    Column("RETRIES", 7),
    Column("ACTOR", 8, shrinks=True),
    Column("DESCRIPTION", 12, shrinks=True),
    Column("DURATION", 8),
    Column("ERROR", 12, shrinks=True),
)
STATUS_COLUMN = 1

#: All that is shown: tracebacks and results stay in the database.
FIELDS = (
    "status",
    "attempt",
    "actor_name",
    "description",
    "enqueued_at",
    "started_at",
    "finished_at",
    "progress",
    "error",
)

#: The names of Django's styles, which DJANGO_COLORS can change.
STYLES = {
    Status.RUNNING: "MIGRATE_HEADING",
    Status.DONE: "SUCCESS",
    Status.FAILED: "ERROR",
    Status.DELAYED: "WARNING",
}

# What terminals obey: another screen without a cursor, and back; the first line; an empty line.
ENTER = "\x1b[?1049h\x1b[?25l"
LEAVE = "\x1b[?25h\x1b[?1049l"
HOME = "\x1b[H"
BLANK = "\x1b[2K"

#: Above the tasks: what is shown, what is wrong, and the heading.
HEAD_LINES = 3


class Command(BaseCommand):
    """Shows a table of tasks, and keeps it up to date in a terminal."""

    help = (
        "Show the newest tasks, and what becomes of them, until Ctrl-C. If the output is no "
        "terminal, or with --once, show them once as plain text."
    )

    #: What waits between two looks; it takes seconds.
    wait: Callable[[float], object] = staticmethod(time.sleep)

    def add_arguments(self, parser: CommandParser) -> None:
        """Add what chooses the tasks, and how often to look."""
        parser.add_argument(
            "--status",
            action="append",
            choices=Status.values,
            help="Only tasks of this status; may be given more than once.",
        )
        parser.add_argument(
            "--actor",
            action="append",
            metavar="NAME",
            help="Only tasks of this actor; may be given more than once.",
        )
        parser.add_argument(
            "--user", metavar="USER", help="Only tasks of this user: a username or a primary key."
        )
        parser.add_argument(
            "--since",
            default="1d",
            metavar="AGE",
            help="Only tasks that were enqueued in the last 90s, 15m, 6h or 30d; the default is "
            "1d. It bounds what the database has to look through.",
        )
        parser.add_argument(
            "--limit",
            type=int,
            default=50,
            metavar="N",
            help="How many to show at most; the default is 50.",
        )
        parser.add_argument(
            "--interval",
            type=float,
            default=1.0,
            metavar="SECONDS",
            help="How long to wait between two looks; the default is 1.",
        )
        parser.add_argument("--once", action="store_true", help="Show them once, and end.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Show the table once, or keep showing it."""
        limit, interval = options["limit"], options["interval"]
        if not 1 <= limit <= MAX_LIMIT:
            raise CommandError(f"--limit is {limit}. Take one from 1 to {MAX_LIMIT:,}.")
        if not SHORTEST_INTERVAL <= interval <= LONGEST_INTERVAL:
            raise CommandError(
                f"--interval is {interval}. Take one from {SHORTEST_INTERVAL} to "
                f"{LONGEST_INTERVAL:,.0f} seconds."
            )
        choice = Choice(
            statuses=options["status"],
            actors=options["actor"],
            user=options["user"],
            since=options["since"],
        )
        is_terminal = self.stdout.isatty()
        if not is_terminal and not options.get("force_color"):
            self.style = no_style()
        # In older releases of Django the wrapper has an encoding of its own, which is None.
        out = getattr(self.stdout, "_out", self.stdout)
        view = View(self.style, Alphabet(getattr(out, "encoding", None)))
        if options["once"] or not is_terminal or os.environ.get("TERM") == "dumb":
            self._show_once(choice, view, limit, fits=is_terminal)
        else:
            self._watch(Watch(choice, view, limit, interval))

    def _show_once(self, choice: Choice, view: View, limit: int, *, fits: bool) -> None:
        width = shutil.get_terminal_size().columns if fits else None
        try:
            tasks = choice.newest(limit)
        except Error as error:
            raise CommandError(f"The tasks can't be read: {describe(error)}.") from error
        for line in view.lines(tasks, width):
            self.stdout.write(line.rstrip())

    def _watch(self, watch: Watch) -> None:
        self.stdout.write(ENTER, ending="")
        try:
            while True:
                size = shutil.get_terminal_size()
                self.stdout.write(watch.step(size.columns, size.lines), ending="")
                self.stdout.flush()
                self.wait(watch.interval)
        except KeyboardInterrupt:
            pass
        finally:
            self.stdout.write(LEAVE, ending="")
            self.stdout.flush()


class Choice:
    """The tasks that somebody wants to see.

    Parameters:
      statuses(Iterable), actors(Iterable): Any of these; None or an empty one for all.
      user(str): A username or a primary key; None for all.
      since(str): The age of the oldest.

    Raises:
      CommandError: If ``since`` is no age.
    """

    def __init__(
        self,
        *,
        statuses: Iterable[str] | None,
        actors: Iterable[str] | None,
        user: str | None,
        since: str,
    ) -> None:
        self._statuses = list(statuses or ())
        self._actors = list(actors or ())
        self._user = user
        self._since = since
        self._age: datetime.timedelta = parse_age("--since", since)
        self._user_pk: Any = None

    def __str__(self) -> str:
        parts = [f"tasks of the last {self._since}"]
        if self._statuses:
            parts.append(" or ".join(self._statuses))
        if self._actors:
            parts.append("of " + " or ".join(self._actors))
        if self._user is not None:
            parts.append(f"for user {self._user}")
        return ", ".join(parts)

    def newest(self, limit: int) -> list[Task]:
        """Return the newest of these tasks, in one query once the user is known.

        Raises:
          CommandError: If there is no such user.
          django.db.Error: If the database says so.
        """
        tasks = Task.objects.only(*FIELDS).filter(enqueued_at__gte=timezone.now() - self._age)
        if self._user is not None:
            tasks = tasks.for_user(self._find_user(self._user))
        if self._statuses:
            tasks = tasks.filter(status__in=self._statuses)
        if self._actors:
            tasks = tasks.filter(actor_name__in=self._actors)
        # By the index alone; what was enqueued at once is put into some order here, so that it
        # keeps its place.
        found = list(tasks.order_by("-enqueued_at")[:limit])
        return sorted(found, key=lambda task: (task.enqueued_at, task.pk), reverse=True)

    def _find_user(self, text: str) -> Any:
        """Return a user's primary key.  The user may be gone: the tasks are still there."""
        if self._user_pk is None:
            keys = keys_of_users(text)
            if not keys:
                raise CommandError(
                    f"--user is {text!r}, which is neither the name of a user nor a primary key."
                )
            self._user_pk = keys[0]
        return self._user_pk


class View:
    """Makes lines of tasks.

    Parameters:
      style(Style): Django's, for colours.
      alphabet(Alphabet): What can be shown.
      now(Callable): Returns the time.
    """

    def __init__(
        self,
        style: Any,
        alphabet: Alphabet,
        now: Callable[[], datetime.datetime] = timezone.now,
    ) -> None:
        self.style = style
        self.alphabet = alphabet
        self.now = now

    def lines(self, tasks: Iterable[Task], width: int | None) -> list[str]:
        """Return the heading, and a line per task."""
        tasks = list(tasks)
        now = self.now()
        rows = [self._cells(task, now) for task in tasks]
        heading, *lines = lay_out(COLUMNS, rows, self.alphabet, width)
        for task, line in zip(tasks, lines):
            style = STYLES.get(Status(task.status)) if task.status in Status.values else None
            if style and len(line) > STATUS_COLUMN:
                line[STATUS_COLUMN] = getattr(self.style, style)(line[STATUS_COLUMN])
        return [self.style.HTTP_INFO(GAP.join(heading)), *map(GAP.join, lines)]

    def _cells(self, task: Task, now: datetime.datetime) -> list[str]:
        clean = self.alphabet.clean
        duration = run_seconds(task, now)
        return [
            texts.seconds((now - task.enqueued_at).total_seconds()),
            clean(task.status),
            "" if task.progress is None else self.alphabet.bar(task.progress),
            str(task.attempt or ""),
            clean(task.actor_name),
            clean(task.description),
            "" if duration is None else texts.seconds(duration),
            clean(task.error or ""),
        ]


class Watch:
    """The table on a terminal.

    Parameters:
      choice(Choice): What to show.
      view(View): How to show it.
      limit(int): How many tasks at most.
      interval(float): Seconds between two looks.
    """

    def __init__(self, choice: Choice, view: View, limit: int, interval: float) -> None:
        self._choice = choice
        self._view = view
        self._limit = limit
        self.interval = interval
        self._tasks: list[Task] = []

    def step(self, width: int, height: int) -> str:
        """Look once, and return what draws the whole screen anew.  While the database is away it
        says so, over what it saw last."""
        room = min(self._limit, max(1, height - HEAD_LINES))
        trouble = self._look(room)
        lines = [self._head(width, room), trouble and self._trouble(trouble, width)]
        lines += self._view.lines(self._tasks[:room], width)
        lines += [""] * (height - len(lines))
        # Each line is emptied first: behind one that fills it, its last character would go too.
        return HOME + "\r\n".join(BLANK + line for line in lines[:height])

    def _look(self, room: int) -> str:
        """Look for as many tasks as there is room for; return what is wrong, if anything is."""
        try:
            self._tasks = self._choice.newest(room)
        except Error as error:
            close_old_connections()  # Those that have failed.
            return describe(error)
        return ""

    def _head(self, width: int, room: int) -> str:
        now = local(self._view.now())
        count = len(self._tasks)
        found = f"the newest {room}" if count >= room else f"{count:,}"
        text = f"{now:%H:%M:%S}  {self._choice}: {found}. Ctrl-C ends this."
        return self._view.alphabet.cut(self._view.alphabet.clean(text), width)

    def _trouble(self, trouble: str, width: int) -> str:
        text = f"The tasks can't be read, trying again: {trouble}"
        alphabet = self._view.alphabet
        line: str = self._view.style.ERROR(alphabet.cut(alphabet.clean(text), width))
        return line
