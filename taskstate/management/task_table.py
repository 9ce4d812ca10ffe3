"""The columns of ``watch_tasks``, and a table of them as plain lines."""

from __future__ import annotations

import datetime
from typing import Any, Callable, NamedTuple, Sequence

from taskstate.management.charset import Charset
from taskstate.models import Status, Task
from taskstate.utils.durations import elapsed_seconds, format_duration


class Column(NamedTuple):
    """A column of the table.

    Parameters:
      title(str): Its heading.
      min_width(int): It is at least this wide, so that the columns keep their places.
      shrinks(bool): Whether its texts may be shortened to fit a terminal.
    """

    title: str
    min_width: int
    shrinks: bool = False


COLUMNS = (
    Column("AGE", 6),
    Column("STATUS", 8),
    Column("PROGRESS", 16),
    Column("ATTEMPT", 7),
    Column("ACTOR", 8, shrinks=True),
    Column("DESCRIPTION", 12, shrinks=True),
    Column("DURATION", 10),
    Column("ERROR", 12, shrinks=True),
)
STATUS_COLUMN = 1

#: The fields that the columns show.  Tracebacks and results are not read from the database.
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
_STYLES = {
    Status.RUNNING: "MIGRATE_HEADING",
    Status.DONE: "SUCCESS",
    Status.FAILED: "ERROR",
    Status.DELAYED: "WARNING",
}
_GAP = "  "


def make_cells(task: Task, charset: Charset, now: datetime.datetime) -> list[str]:
    """Return the text of each column for a task: one line each, without control characters."""
    age = (now - task.enqueued_at).total_seconds()
    duration = elapsed_seconds(task.started_at, task.finished_at, now)
    return [
        format_duration(age, units=1),
        charset.clean(task.status),
        "" if task.progress is None else charset.bar(task.progress),
        str(task.attempt),
        charset.clean(task.actor_name),
        charset.clean(task.description),
        "" if duration is None else format_duration(duration),
        charset.clean(task.error or ""),
    ]


def style_for(status: str, style: Any) -> Callable[[str], str]:
    """Return the function of Django's ``style`` that colors a status."""
    name = _STYLES.get(Status(status)) if status in Status.values else None
    function: Callable[[str], str] = getattr(style, name) if name else str
    return function


def plain_lines(
    tasks: Sequence[Task], charset: Charset, style: Any, now: datetime.datetime
) -> list[str]:
    """Return the heading and a line for each task, with nothing shortened."""
    rows = [make_cells(task, charset, now) for task in tasks]
    widths = [
        max([column.min_width, *(len(row[number]) for row in rows)])
        for number, column in enumerate(COLUMNS)
    ]
    heading = _GAP.join(column.title.ljust(width) for column, width in zip(COLUMNS, widths))
    lines = [style.HTTP_INFO(heading.rstrip())]
    for task, row in zip(tasks, rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths)]
        cells[STATUS_COLUMN] = style_for(task.status, style)(cells[STATUS_COLUMN])
        lines.append(_GAP.join(cells).rstrip())
    return lines
