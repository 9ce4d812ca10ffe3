"""``manage.py watch_tasks``: show the newest tasks in a terminal while they change."""

from __future__ import annotations

import datetime
import os
import time
from types import ModuleType
from typing import Any, Callable, Iterable

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.management.color import no_style
from django.db import Error, close_old_connections
from django.utils import timezone

from taskstate import conf
from taskstate.management.arguments import parse_age
from taskstate.management.output import Output
from taskstate.management.task_table import FIELDS, plain_lines
from taskstate.models import Status, Task, user_keys_matching
from taskstate.stores.errors import summarize

MAX_LIMIT = 10_000
#: In seconds.
MIN_INTERVAL, MAX_INTERVAL = 0.1, 3_600.0

#: The values of the environment variable TERM for terminals that can only print lines.
_DUMB_TERMINALS = {"dumb", "unknown"}


class Command(BaseCommand):
    """Shows a table of tasks, and keeps it up to date in a terminal."""

    help = (
        "Show the newest tasks and how they change, until you press Ctrl-C. With --once, or if the "
        "output is not a terminal, show them once and exit."
    )

    #: Waits between two queries.  It takes seconds.
    wait: Callable[[float], object] = staticmethod(time.sleep)

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options that select tasks, and those that say how often to query."""
        parser.add_argument(
            "--status",
            action="append",
            choices=Status.values,
            help="Show only tasks with this status. Repeat it for several.",
        )
        parser.add_argument(
            "--actor",
            action="append",
            metavar="NAME",
            help="Show only tasks of this actor. Repeat it for several.",
        )
        parser.add_argument(
            "--user",
            metavar="USER",
            help="Show only tasks of this user, given by username or primary key.",
        )
        parser.add_argument(
            "--tenant",
            metavar="NAME",
            help="Show only tasks of this tenant, by the name that TASKSTATE['TENANT'] returns; '' "
            "selects the tasks without a tenant. By default, the tasks of all tenants are shown.",
        )
        parser.add_argument(
            "--since",
            default="1d",
            metavar="AGE",
            help="Show only tasks that were enqueued within this age: 90s, 15m, 6h or 30d. The "
            "default is 1d. A shorter age makes the query faster.",
        )
        parser.add_argument(
            "--limit",
            type=int,
            default=50,
            metavar="N",
            help="Show at most this many tasks. The default is 50.",
        )
        parser.add_argument(
            "--interval",
            type=float,
            default=1.0,
            metavar="SECONDS",
            help="Wait this long between two queries. The default is 1.",
        )
        parser.add_argument("--once", action="store_true", help="Show the tasks once, and exit.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Show the table once, or keep showing it."""
        limit, interval = options["limit"], options["interval"]
        _check_ranges(limit, interval)
        task_filter = TaskFilter(
            statuses=options["status"],
            actors=options["actor"],
            user=options["user"],
            tenant=options["tenant"],
            since=options["since"],
        )
        with Output(self.stdout) as out:
            is_terminal = out.isatty()
            if not is_terminal and not options.get("force_color"):
                self.style = no_style()
            if not is_terminal or os.environ.get("TERM") in _DUMB_TERMINALS:
                self._print_lines(task_filter, limit, out)
            elif options["once"]:
                self._print_table(task_filter, limit, out)
            else:
                self._watch(task_filter, limit, interval, out)

    def _print_lines(self, task_filter: TaskFilter, limit: int, out: Output) -> None:
        for line in plain_lines(
            _newest(task_filter, limit), out.charset, self.style, timezone.now()
        ):
            out.write(line)

    def _print_table(self, task_filter: TaskFilter, limit: int, out: Output) -> None:
        terminal = _import_terminal()
        renderer = terminal.TableRenderer(self.style, out.charset)
        terminal.print_table(out, renderer, _newest(task_filter, limit))

    def _watch(self, task_filter: TaskFilter, limit: int, interval: float, out: Output) -> None:
        """Query and draw until Ctrl-C.  During an outage of the database, keep showing the last
        tasks together with the error."""
        terminal = _import_terminal()
        tasks: list[Task] = []
        try:
            with terminal.LiveTable(out, terminal.TableRenderer(self.style, out.charset)) as table:
                while out.is_open:
                    room = min(limit, table.find_room())
                    error = ""
                    try:
                        tasks = task_filter.newest(room)
                    except Error as db_error:
                        close_old_connections()  # Those that have failed.
                        error = f"The tasks can't be read, trying again: {summarize(db_error)}"
                    shown = tasks[:room]
                    count = f"the newest {room}" if len(shown) >= room else f"{len(shown):,}"
                    table.show(f"{task_filter}: {count}. Press Ctrl-C to exit.", shown, error)
                    out.flush()
                    self.wait(interval)
        except KeyboardInterrupt:
            pass


def _check_ranges(limit: int, interval: float) -> None:
    """Raise ``CommandError`` if ``--limit`` or ``--interval`` is out of range."""
    if not 1 <= limit <= MAX_LIMIT:
        raise CommandError(
            f"--limit: {limit} is out of range; use a number from 1 to {MAX_LIMIT:,}."
        )
    if not MIN_INTERVAL <= interval <= MAX_INTERVAL:
        raise CommandError(
            f"--interval: {interval} is out of range; use {MIN_INTERVAL} to "
            f"{MAX_INTERVAL:,.0f} seconds."
        )


def _newest(task_filter: TaskFilter, limit: int) -> list[Task]:
    try:
        return task_filter.newest(limit)
    except Error as error:
        raise CommandError(f"The tasks can't be read: {summarize(error)}.") from error


def _import_terminal() -> ModuleType:
    """Return the module that draws on a terminal."""
    try:
        # Here, because it needs rich, which is an extra.
        from taskstate.management import terminal
    except ImportError as error:
        raise CommandError(
            f"The table in a terminal needs the package rich ({error}). Install it with: pip "
            "install rich. Without it, pipe the output into another command to get plain lines."
        ) from error
    return terminal


class TaskFilter:
    """Selects the tasks to show.

    Parameters:
      statuses(Iterable): Tasks with one of these statuses; None or an empty one selects all.
      actors(Iterable): Tasks of one of these actors; None or an empty one selects all.
      user(str): Tasks of this user: a username or a primary key; None selects all.
      tenant(str): Tasks of this tenant; None selects all.
      since(str): The greatest age, such as ``"1d"``.

    Raises:
      CommandError: If ``since`` is not a valid age.
    """

    def __init__(
        self,
        *,
        statuses: Iterable[str] | None,
        actors: Iterable[str] | None,
        user: str | None,
        since: str,
        tenant: str | None = None,
    ) -> None:
        self._statuses = list(statuses or ())
        self._actors = list(actors or ())
        self._user = user
        self._tenant = tenant
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
        if self._tenant is not None:
            parts.append(f"of tenant {self._tenant!r}")
        return ", ".join(parts)

    def newest(self, limit: int) -> list[Task]:
        """Return the newest of these tasks, newest first.  It takes one query, and a second one the
        first time if a user was given.

        Raises:
          CommandError: If there is no such user.
          django.db.Error: If the query fails.
        """
        tasks = Task.objects.only(*FIELDS).filter(enqueued_at__gte=timezone.now() - self._age)
        tenant = self._tenant
        if self._user is not None:
            tasks = tasks.filter(user_id=self._find_user(self._user))
            if tenant is None and conf.TENANT.function is None:
                tenant = ""  # That of all tasks here: it lets the query use the index on the user.
        if tenant is not None:
            tasks = tasks.filter(tenant=tenant)
        if self._statuses:
            tasks = tasks.filter(status__in=self._statuses)
        if self._actors:
            tasks = tasks.filter(actor_name__in=self._actors)
        # The database orders by the index alone. Tasks that were enqueued at the same time are
        # ordered here, so that they keep their places on the screen.
        found = list(tasks.order_by("-enqueued_at")[:limit])
        return sorted(found, key=lambda task: (task.enqueued_at, task.pk), reverse=True)

    def _find_user(self, text: str) -> Any:
        """Return a user's primary key.  The user may have been deleted; the tasks remain."""
        if self._user_pk is None:
            keys = user_keys_matching(text)
            if not keys:
                raise CommandError(
                    f"--user: {text!r} is neither a username nor a valid primary key; use one or "
                    "the other."
                )
            self._user_pk = keys[0]
        return self._user_pk
