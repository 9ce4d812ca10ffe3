"""``watch_tasks``: the newest tasks in a terminal."""

import io
import time

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.core.management.color import no_style
from django.db import OperationalError, connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from taskstate.management.commands import watch_tasks
from taskstate.management.commands.watch_tasks import BLANK, ENTER, HOME, LEAVE
from taskstate.management.table import width_of
from taskstate.models import Task
from taskstate.stores.orm import OrmStore
from taskstate.transitions import Extras, Status
from tests.factories import make_entry, make_id, make_transition


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
    OrmStore().write([make_entry(transition)])


def once(*arguments):
    """Return what is shown where the output is no terminal: the heading, and the lines."""
    out = io.StringIO()
    call_command("watch_tasks", *arguments, stdout=out)
    heading, *lines = out.getvalue().splitlines()
    assert heading.split() == [column.title for column in watch_tasks.COLUMNS]
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
    return [[line.replace(BLANK, "") for line in screen.split("\r\n")] for screen in drawn]


def test_the_newest_come_first(database):
    """With all that there is to say of each, in one query, and without the large columns."""
    write(1, Status.DONE, 300.5, started_at=int((time.time() - 200) * 1000), description="Old")
    running = Extras(progress=42.0, progress_text="x", error="ValueError: no", traceback="long")
    started = int((time.time() - 75.5) * 1000)
    write(
        2,
        Status.RUNNING,
        80.5,
        started_at=started,
        attempt=2,
        description="報告",
        extras=running,
    )
    with CaptureQueriesContext(connections[database]) as queries:
        first, second = once()

    bar, error = "████░░░░░░  42%", "ValueError: no"
    words = ["1m20s", "running", *bar.split(), "2", "actor", "報告", "1m15s", *error.split()]
    assert first.split() == words
    assert second.split()[:4] == ["5m00s", "done", "actor", "Old"]
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
        return [line.split()[3] for line in once(*arguments)]

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
        (["--user", "nobody"], "--user is 'nobody', which is neither the name of a user nor"),
        (["--user", "9" * 30], "--user is '9{30}', which is neither the name of a user nor"),
        (["--limit", "0"], "--limit is 0. Take one from 1 to 10,000."),
        (["--interval", "nan"], "--interval is nan. Take one from 0.1 to 3,600 seconds."),
        (["--since", "soon"], "--since is 'soon', which is no age"),
        (["--status", "lost"], "invalid choice: 'lost'"),
    ],
)
def test_a_bad_argument(sqlite, arguments, text):
    """The error names it, its value and the cure; in a terminal as well."""
    for out in (io.StringIO(), Terminal()):
        with pytest.raises(CommandError, match=text):
            call_command("watch_tasks", *arguments, stdout=out)


def test_a_terminal_is_kept_up_to_date(sqlite):
    """Until Ctrl-C: what comes is seen, with one query each time."""
    write(1, Status.RUNNING, 5, description="Export")
    queries = CaptureQueriesContext(connections[sqlite])
    pauses = Pauses(
        lambda: write(1, Status.DONE, 5, description="Export", hop=2),
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
    """Not in height, not in width, not by what somebody has put into a description."""
    hostile = "\x1b[2J\x1b[1;1H\n\n" + "報告" * 100
    for number in range(20):
        write(number, age=number, description=hostile, extras=Extras(error=hostile))
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
            assert width_of(line) <= columns
            assert "\x1b" not in line
    assert ": the newest 9." in screens[0][0]
    assert ": 20." in screens[3][0]


def test_a_database_that_is_away(sqlite, monkeypatch):
    """It says so, goes on, and shows what it saw last meanwhile."""
    write(1, Status.RUNNING, 5, description="Export")
    newest = watch_tasks.Choice.newest

    def fail(choice, limit):
        raise OperationalError("connection\x1b[2J refused")

    screens = watch(
        pauses=Pauses(
            lambda: monkeypatch.setattr(watch_tasks.Choice, "newest", fail),
            lambda: monkeypatch.setattr(watch_tasks.Choice, "newest", newest),
        )
    )

    assert [screen[1][:28] for screen in screens] == ["", "The tasks can't be read, try", ""]
    assert "OperationalError: connection" in screens[1][1]
    assert all("Export" in screen[3] for screen in screens)

    monkeypatch.setattr(watch_tasks.Choice, "newest", fail)
    with pytest.raises(CommandError, match="The tasks can't be read: OperationalError"):
        once()


def test_it_ends_in_the_middle_of_a_look(sqlite):
    """The terminal is as it was before."""
    command, out = watch_tasks.Command(), Terminal()

    def interrupt(execute, sql, params, many, context):
        raise KeyboardInterrupt

    with connections[sqlite].execute_wrapper(interrupt):
        call_command(command, stdout=out)
    assert out.getvalue() == ENTER + LEAVE


def test_colours_only_where_they_are_wanted(sqlite, monkeypatch):
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


def test_an_output_that_takes_little(sqlite):
    """Not every log file is UTF-8: what it can't take is replaced."""
    write(1, Status.RUNNING, description="Bücher 報告", extras=Extras(progress=50.0))
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    call_command("watch_tasks", stdout=out)
    out.flush()

    assert b"B?cher ??" in raw.getvalue()
    assert b"#####.....  50%" in raw.getvalue()


def test_a_status_of_a_later_release(sqlite):
    """Whatever the row says is shown."""
    write(1)
    Task.objects.update(status="paused", progress=100)
    choice = watch_tasks.Choice(statuses=None, actors=None, user=None, since="1d")
    view = watch_tasks.View(no_style(), watch_tasks.Alphabet("utf-8"), timezone.now)
    _, line = view.lines(choice.newest(1), None)

    assert "paused" in line
    assert "100%" in line
