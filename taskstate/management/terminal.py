"""The table of ``watch_tasks`` in a terminal, drawn by rich.

Only import this module where a terminal is drawn on: rich is the extra ``terminal``.  Every text is
a ``Text``, so rich finds no markup in it.
"""

from __future__ import annotations

import datetime
import shutil
from typing import Any, Callable, Sequence, cast

from django.utils import timezone
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from taskstate.management.charset import Charset
from taskstate.management.output import Output
from taskstate.management.task_table import COLUMNS, STATUS_COLUMN, make_cells, style_for
from taskstate.models import Task
from taskstate.utils.durations import local

#: The lines above the tasks: the filter, an error, and the heading of the table.
HEAD_LINES = 3


class TableRenderer:
    """Makes rich's table of tasks.

    Parameters:
      style(Style): Django's, for the colors.
      charset(Charset): The characters of the terminal.
      now(Callable): Returns the time.
    """

    def __init__(
        self,
        style: Any,
        charset: Charset,
        now: Callable[[], datetime.datetime] = timezone.now,
    ) -> None:
        self.style = style
        self.charset = charset
        self.now = now

    def table(self, tasks: Sequence[Task]) -> Table:
        """Return a table that fits the width of the terminal, with one line for each task."""
        table = Table(box=None, header_style="", pad_edge=False, padding=(0, 2, 0, 0))
        for column in COLUMNS:
            heading = self._styled(column.title, self.style.HTTP_INFO)
            # Rich narrows the columns that may be wrapped, but their texts stay in one line.
            table.add_column(heading, min_width=column.min_width, no_wrap=not column.shrinks)
        now = self.now()
        for task in tasks:
            cells = [self.line(cell) for cell in make_cells(task, self.charset, now)]
            status = cells[STATUS_COLUMN].plain
            cells[STATUS_COLUMN] = self._styled(status, style_for(task.status, self.style))
            table.add_row(*cells)
        return table

    def header(self, text: str) -> Text:
        """Return the line that says what the table shows."""
        return self.line(self.charset.clean(text))

    def error(self, text: str) -> Text:
        """Return a line that says what is wrong."""
        return self._styled(self.charset.clean(text), self.style.ERROR)

    def line(self, text: str) -> Text:
        """Return clean text as one line, which is shortened where it doesn't fit."""
        return self._one_line(Text(text))

    def _styled(self, text: str, style: Callable[[str], str]) -> Text:
        return self._one_line(Text.from_ansi(style(text)))

    def _one_line(self, text: Text) -> Text:
        text.no_wrap = True
        text.overflow = "ellipsis" if self.charset.has_symbols else "crop"
        return text


class LiveTable:
    """The table on the whole screen of a terminal, while the tasks change.

    Use it as a context manager: at the end the terminal shows again what it showed before.

    Parameters:
      out(Output): The terminal.
      renderer(TableRenderer): Draws the tasks.
    """

    def __init__(self, out: Output, renderer: TableRenderer) -> None:
        self._renderer = renderer
        self._console = make_console(out)
        self._live = Live(
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> LiveTable:  # noqa: PYI034 - typing.Self needs Python 3.11
        try:
            self._live.start()
        except BaseException:  # Ctrl-C, say.
            self._live.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def find_room(self) -> int:
        """Return how many tasks fit the terminal, whose size may have changed."""
        self._console.size = shutil.get_terminal_size()
        return max(1, self._console.height - HEAD_LINES)

    def show(self, title: str, tasks: Sequence[Task], error: str) -> None:
        """Draw the screen.

        Parameters:
          title(str): What is shown.
          tasks(Sequence[Task]): The tasks that were read last.
          error(str): Why they could not be read again; empty if they could.
        """
        renderer = self._renderer
        header = renderer.header(f"{local(renderer.now()):%H:%M:%S}  {title}")
        screen = Group(header, renderer.error(error), renderer.table(tasks))
        self._live.update(screen, refresh=True)


def print_table(out: Output, renderer: TableRenderer, tasks: Sequence[Task]) -> None:
    """Write the table once, as wide as the terminal."""
    make_console(out).print(renderer.table(tasks))


def make_console(out: Output) -> Console:
    """Return a console that writes to a terminal.

    The colors come from Django's style, which may be one without colors.
    """
    size = shutil.get_terminal_size()
    return Console(
        file=cast(Any, _OutputFile(out)),
        width=size.columns,
        height=size.lines,
        force_terminal=True,
        force_interactive=True,
        force_jupyter=False,
        color_system="standard",
        highlight=False,
    )


class _OutputFile:
    """An ``Output`` as the file that rich writes to.  Writing never raises."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self.encoding = out.charset.encoding

    def write(self, text: str) -> int:
        """Write text, with a question mark for each character that the encoding lacks."""
        self._out.write(self._out.charset.encodable(text), ending="")
        return len(text)

    def flush(self) -> None:
        """Write out what Python has buffered."""
        self._out.flush()
