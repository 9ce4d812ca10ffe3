"""``watch_tasks``: the newest tasks in a terminal."""

import errno
import io
import re
import sys
import time
import unicodedata

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.core.management.color import color_style
from django.db import OperationalError, connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rich.cells import cell_len

from taskstate import management
from taskstate.management.charset import Charset
from taskstate.management.commands import watch_tasks
from taskstate.management.task_table import COLUMNS, plain_lines
from taskstate.models import Task
from taskstate.stores.orm import OrmStore
from taskstate.transitions.status import Status
from taskstate.transitions.transition import TaskDetails
from tests.support.factories import make_id, make_pending, make_transition

# What a terminal obeys: another screen without a cursor, and back; the first line.
ENTER = "\x1b[?1049h\x1b[H\x1b[?25l"
LEAVE = "\x1b[?25h\x1b[?1049l"
HOME = "\x1b[H"


HOSTILE_ERROR = TaskDetails(error="\x1b[2J\r\n\u202e" + "x" * 200)


class Terminal(io.StringIO):
    """Standard output that is a terminal."""

    def isatty(self):
        return True


class Pauses:
    """What happens while the command waits; after the last one, Ctrl-C."""

    def __init__(self, *steps):
        self.steps = list(steps)
        self.waited = []

    def __call__(self, seconds):
        self.waited.append(seconds)
        if not self.steps:
            raise KeyboardInterrupt
        self.steps.pop(0)()


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    """A terminal of a known size."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "12")
    monkeypatch.setenv("TERM", "xterm")


def write(number, status=Status.ENQUEUED, age=60.0, **values):
    """Write the row of a task that was enqueued ``age`` seconds ago."""
    at = int((time.time() - age) * 1000)
    transition = make_transition(
        status, at=at + 1, enqueued_at=at, message_id=make_id(number), **values
    )
    OrmStore().write([make_pending(transition)])


def once(*arguments):
    """Return what is shown where the output is no terminal: the heading, and the lines."""
    out = io.StringIO()
    call_command("watch_tasks", *arguments, stdout=out)
    heading, *lines = out.getvalue().splitlines()
    assert heading.split() == [column.title for column in COLUMNS]
    return lines


def watch(*arguments, pauses):
    """Return the screens that are shown in a terminal, each a list of lines."""
    command, out = watch_tasks.Command(stdout=Terminal()), Terminal()
    command.wait = pauses
    call_command(command, "--no-color", *arguments, stdout=out)
    shown = out.getvalue()
    assert shown.startswith(ENTER)
    assert shown.endswith(LEAVE)
    drawn = shown[len(ENTER) : -len(LEAVE)].split(HOME)[1:]
    return [screen.split("\n") for screen in drawn]


def cells(line):
    """Return the texts of a line, without the empty ones."""
    return re.split(r"  +", line.strip())


def test_the_newest_come_first(database):
    """With all that there is to say of each, in one query, and without the large columns."""
    write(1, Status.DONE, 300.5, started_at=int((time.time() - 200) * 1000), description="Old")
    running = TaskDetails(
        progress=42.0, progress_text="x", error="ValueError: no", traceback="long"
    )
    started = int((time.time() - 75.5) * 1000)
    write(
        2,
        Status.RUNNING,
        80.5,
        started_at=started,
        attempt=3,
        description="報告",
        details=running,
    )
    with CaptureQueriesContext(connections[database]) as queries:
        first, second = once()

    bar, error = ["████░░░░░░", "42 %"], "ValueError: no"
    assert cells(first) == ["1 min", "running", *bar, "3", "actor", "報告", "1 min 15 s", error]
    assert cells(second)[:5] == ["5 min", "done", "1", "actor", "Old"]
    selects = [query["sql"] for query in queries if "taskstate_task" in query["sql"]]
    assert len(selects) == 1
    assert "traceback" not in selects[0]
    assert "metadata" not in selects[0]


def test_it_shows_what_was_asked_for(sqlite):
    """By status, actor and user, the newest of these."""
    pk = 7_000_001
    write(1, Status.DONE, 5, actor_name="mail", description="one")
    write(2, Status.FAILED, 4, actor_name="mail", user_pk=pk, description="two")
    write(3, Status.RUNNING, 3, actor_name="export", user_pk=pk, description="three")
    write(4, Status.RUNNING, 3 * 86_400, description="four")

    def shown(*arguments):
        return [cells(line)[4] for line in once(*arguments)]

    assert shown() == ["three", "two", "one"]
    assert shown("--status", "running", "--status", "failed") == ["three", "two"]
    assert shown("--actor", "mail") == ["two", "one"]
    assert shown("--since", "4d", "--status", "running") == ["three", "four"]
    assert shown("--limit", "1") == ["three"]
    assert shown("--user", str(pk)) == ["three", "two"], "tasks of a user who is gone"
    assert shown("--user", str(pk), "--status", "done") == []
    user = get_user_model().objects.create(username="mia", pk=pk)
    try:
        assert shown("--user", "mia", "--actor", "mail") == ["two"]
    finally:
        user.delete()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--user", "nobody"], "--user: 'nobody' is neither a username nor a valid primary key"),
        (["--user", "9" * 30], "--user: '9{30}' is neither a username nor a valid primary key"),
        (["--limit", "0"], "--limit: 0 is out of range; use a number from 1 to 10,000."),
        (["--interval", "nan"], "--interval: nan is out of range; use 0.1 to 3,600 seconds."),
        (["--since", "soon"], "--since: 'soon' is not a valid age"),
        (["--status", "lost"], "invalid choice: 'lost'"),
    ],
)
def test_a_bad_argument(sqlite, arguments, text):
    """The error names it, its value and what to do; in a terminal as well."""
    for out in (io.StringIO(), Terminal()):
        with pytest.raises(CommandError, match=text):
            call_command("watch_tasks", *arguments, stdout=out)


def test_a_terminal_is_kept_up_to_date(sqlite):
    """Until Ctrl-C: what comes is seen, with one query each time."""
    write(1, Status.RUNNING, 5, description="Export")
    queries = CaptureQueriesContext(connections[sqlite])
    pauses = Pauses(
        lambda: write(1, Status.DONE, 5, description="Export", stamp=2),
        queries.__enter__,
        lambda: queries.__exit__(None, None, None),
    )
    screens = watch("--interval", "0.5", pauses=pauses)

    assert len(screens) == 4
    assert ["running" in screens[0][3], "done" in screens[1][3]] == [True, True]
    assert pauses.waited == [0.5] * 4
    assert len(queries) == 1
    for screen in screens:
        assert len(screen) == 12
        assert "tasks of the last 1d: 1." in screen[0]
        assert screen[2].startswith("AGE ")


def test_a_screen_is_never_overrun(sqlite, monkeypatch):
    """Not in height, not in width, not by what a description holds."""
    hostile = "\x1b[2J\x1b[1;1H\n\n" + "報告" * 100
    for number in range(20):
        write(number, age=number, description=hostile, details=TaskDetails(error=hostile))
    sizes = [(100, 12), (41, 5), (7, 2), (250, 40), (1, 1)]

    def resize():
        columns, lines = sizes[len(pauses.waited)]
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("LINES", str(lines))

    pauses = Pauses(*[resize] * 4)
    screens = watch(pauses=pauses)

    assert [len(screen) for screen in screens] == [lines for _, lines in sizes]
    for (columns, _), screen in zip(sizes, screens):
        for line in screen:
            assert cell_len(line) <= columns
            assert "\x1b" not in line
    assert ": the newest 9." in screens[0][0]
    assert ": 20." in screens[3][0]


def test_a_database_that_is_away(sqlite, monkeypatch):
    """It says so, goes on, and shows what it saw last meanwhile."""
    write(1, Status.RUNNING, 5, description="Export")
    newest = watch_tasks.TaskFilter.newest

    def fail(task_filter, limit):
        raise OperationalError("connection\x1b[2J refused")

    screens = watch(
        pauses=Pauses(
            lambda: monkeypatch.setattr(watch_tasks.TaskFilter, "newest", fail),
            lambda: monkeypatch.setattr(watch_tasks.TaskFilter, "newest", newest),
        )
    )

    assert [screen[1][:28].strip() for screen in screens] == [
        "",
        "The tasks can't be read, try",
        "",
    ]
    assert "OperationalError: connection" in screens[1][1]
    assert all("Export" in screen[3] for screen in screens)

    monkeypatch.setattr(watch_tasks.TaskFilter, "newest", fail)
    with pytest.raises(CommandError, match="The tasks can't be read: OperationalError"):
        once()


def test_it_ends_in_the_middle_of_a_look(sqlite):
    """The terminal is as it was before."""
    command, out = watch_tasks.Command(), Terminal()

    def interrupt(execute, sql, params, many, context):
        raise KeyboardInterrupt

    with connections[sqlite].execute_wrapper(interrupt):
        call_command(command, stdout=out)
    assert out.getvalue().startswith(ENTER)
    assert out.getvalue().endswith(LEAVE)


def test_colors_only_where_they_are_wanted(sqlite, monkeypatch):
    """None in a pipe, and none in a terminal that obeys nothing."""
    write(1, Status.FAILED)
    assert "\x1b" not in "".join(once())
    out = Terminal()
    monkeypatch.setenv("TERM", "dumb")
    call_command("watch_tasks", "--no-color", stdout=out)
    assert "failed" in out.getvalue()
    assert "\x1b" not in out.getvalue()
    out = Terminal()
    call_command("watch_tasks", "--once", "--force-color", stdout=out)
    assert "\x1b[31;1mfailed" in out.getvalue()
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    call_command("watch_tasks", "--once", "--force-color", stdout=out)
    assert "\x1b[1;31mfailed" in out.getvalue()
    out = Terminal()
    call_command("watch_tasks", "--once", "--no-color", stdout=out)
    assert "failed" in out.getvalue()
    assert "\x1b" not in out.getvalue()


class FullDisk(Terminal):
    """A terminal that fails once it has drawn a screen."""

    def write(self, text):
        if "Export" in self.getvalue():
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def test_a_terminal_that_fails(sqlite):
    """It ends the command, which says why."""
    write(1, description="Export")
    command, pauses = watch_tasks.Command(), Pauses(*[lambda: None] * 9)
    command.wait = pauses

    with pytest.raises(CommandError, match=r"Not every line could be written .*Errno 28"):
        call_command(command, stdout=FullDisk())
    assert len(pauses.waited) == 2


@pytest.mark.parametrize("arguments", [[], ["--once"]])
def test_rich_is_missing(arguments, sqlite, monkeypatch):
    """A terminal needs it, and the error says how to install it; plain lines do not need it."""
    write(1, description="Export")
    monkeypatch.delitem(sys.modules, "taskstate.management.terminal", raising=False)
    monkeypatch.delattr(management, "terminal", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)

    with pytest.raises(CommandError, match="pip install rich"):
        call_command("watch_tasks", *arguments, stdout=Terminal())
    assert "Export" in once(*arguments)[0]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("width", ["1", "2", "5", "12", "41", "80", "250"])
def test_a_terminal_of_any_width(encoding, width, sqlite, monkeypatch):
    """Each task takes one line, and what does not fit is cut off, with an ellipsis if there is
    one in the encoding."""
    write(1, description="[bold]Export[/bold] :smile: " + "報告" * 40, details=HOSTILE_ERROR)
    monkeypatch.setenv("COLUMNS", width)
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding)
    monkeypatch.setattr(out, "isatty", lambda: True, raising=False)
    call_command("watch_tasks", "--once", "--no-color", stdout=out)
    out.flush()
    text = raw.getvalue().decode(encoding)

    assert len(text.splitlines()) == 2
    assert all(cell_len(line) <= int(width) for line in text.splitlines())
    assert {unicodedata.category(c) for c in text} & {"Cc", "Cf", "Cs", "Zl", "Zp"} == {"Cc"}
    assert "\x1b" not in text
    if width == "250":
        assert "[bold]Export[/bold] :smile: " in text, "not as markup"
    if encoding == "utf-8" and width in {"80", "250"}:
        assert "報" in text if width == "250" else "…" in text


def test_an_output_that_takes_little(sqlite):
    """Not every log file is UTF-8: what it can't take is replaced."""
    write(1, Status.RUNNING, description="Bücher 報告", details=TaskDetails(progress=50.0))
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    call_command("watch_tasks", stdout=out)
    out.flush()

    assert b"B?cher ??" in raw.getvalue()
    assert b"#####.....  50 %" in raw.getvalue()


def test_a_status_of_a_later_release(sqlite):
    """Whatever the row says is shown."""
    write(1)
    Task.objects.update(status="paused", progress=100)
    task_filter = watch_tasks.TaskFilter(statuses=None, actors=None, user=None, since="1d")
    _, line = plain_lines(task_filter.newest(1), Charset("utf-8"), color_style(), timezone.now())

    assert "paused" in line
    assert "100 %" in line
