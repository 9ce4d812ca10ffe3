"""``clear_tasks``: final, whatever other processes hold and whatever their clocks say."""

import contextlib
import io
import logging
import re
import threading
import time

import pytest
from django.core.management import CommandError, call_command
from django.db import connections

import taskstate
from taskstate import retention
from taskstate.middleware import StateMiddleware
from taskstate.models import Task
from taskstate.stores.fence import AGE_MARGIN_SECONDS, raise_fence
from taskstate.stores.orm import OrmStore
from taskstate.stores.upsert import UpsertStore
from taskstate.transitions.status import Status
from taskstate.writer.pacing import BURST
from tests.support import servers
from tests.support.factories import make_id, make_pending, make_transition
from tests.support.limits import LIMIT_SECONDS
from tests.support.logs import logging_to
from tests.support.processes import SecondProcess

HOUR = 3600.0


def clear(*arguments, out=None, **options):
    out = out or io.StringIO()
    call_command("clear_tasks", *arguments, stdout=out, **options)
    return out.getvalue()


def statuses():
    return {task.message_id.int: task.status for task in Task.objects.all()}


def write(numbers, status=Status.ENQUEUED):
    OrmStore().write(
        [make_pending(make_transition(status, message_id=make_id(n))) for n in numbers]
    )


def write_old(numbers, status, days=2):
    at = int((time.time() - days * 24 * HOUR) * 1000)
    OrmStore().write(
        [
            make_pending(make_transition(status, at=at, enqueued_at=at, message_id=make_id(n)))
            for n in numbers
        ]
    )


@pytest.fixture
def answer(monkeypatch):
    """Answer the question, and keep it."""
    asked = []

    def prepare(text):
        def answer(question):
            asked.append(question)
            if text is None:
                raise EOFError
            return text

        monkeypatch.setattr("builtins.input", answer)
        return asked

    return prepare


@pytest.fixture(scope="module")
def processes(django_db_setup):
    """A second process for each database, which all tests share."""
    with contextlib.ExitStack() as stack:
        aliases = [alias for alias in servers.DATABASES if servers.answers(alias)]
        yield {alias: stack.enter_context(SecondProcess(alias)) for alias in aliases}


@pytest.fixture
def second(request, processes):
    """The second process that writes to the database of the test."""
    alias = request.node.callspec.params.get("database")
    return processes[alias or request.node.callspec.params["server_database"]]


def test_it_deletes_every_task_in_batches(database):
    """Whatever its status, and says how many."""
    write(range(2300))
    write(range(3), Status.RUNNING)
    write(range(5, 9), Status.FAILED)

    assert "Deleted 2,300 tasks." in clear(yes=True)
    assert Task.objects.count() == 0
    assert "Deleted 0 tasks." in clear(yes=True)


@pytest.mark.parametrize("text", ["y", "yes", " Y ", "YES"])
def test_it_asks_first(text, sqlite, answer):
    """With the number of tasks and the database's name."""
    asked = answer(text)
    write([1])

    assert "Deleted 1 task." in clear()
    assert asked == ["Delete 1 task from the database 'default'? [y/N] "]


@pytest.mark.parametrize("text", ["n", "", "no", "yeah", None])
def test_without_a_yes_nothing_is_deleted(text, sqlite, answer):
    """The exit status is 1, and nothing is cleared for other processes either."""
    answer(text)
    write([1])

    with pytest.raises(CommandError, match="Nothing was deleted") as caught:
        clear()

    assert getattr(caught.value, "returncode", 1) == 1
    write([2])
    assert statuses() == {1: "enqueued", 2: "enqueued"}


@pytest.mark.parametrize("option", ["--yes", "--noinput"])
def test_the_question_can_be_skipped(option, sqlite, answer):
    """For scripts."""
    asked = answer("n")
    write([1])
    call_command("clear_tasks", option, stdout=io.StringIO())

    assert asked == []
    assert statuses() == {}


def test_this_processs_pending_is_flushed_first(database):
    """What was tracked here before is gone with the rest, and counted."""
    state = StateMiddleware(flush_interval=HOUR)
    for number in range(BURST + 5):
        state._writer.push(make_transition(message_id=make_id(number)))

    assert f"Deleted {BURST + 5} tasks." in clear(yes=True)
    assert taskstate.flush(LIMIT_SECONDS)
    assert statuses() == {}


def test_if_pending_can_not_be_flushed_nothing_is_deleted(sqlite, monkeypatch):
    """The error says why."""
    monkeypatch.setattr(taskstate, "flush", lambda timeout: False)
    write([1])
    with pytest.raises(CommandError, match="Nothing was deleted"):
        clear(yes=True)

    assert statuses() == {1: "enqueued"}


@pytest.mark.parametrize("store", ["orm", "upsert"])
@pytest.mark.parametrize("clock", [0.0, HOUR, -HOUR])
def test_what_another_process_still_holds_does_not_come_back(clock, database, store, second):
    """Its transitions are older than the clear by their age, whatever its clock says; a task
    that goes on afterward appears again with its next transition."""
    burst = [make_id(n) for n in range(BURST)]
    ids = [make_id(n) for n in range(100, 103)]
    second.begin(clock, store)
    second.order("spend_burst", ids=burst)
    second.order("running", ids=ids)
    assert second.order("pending") == 3
    assert set(statuses()) == set(range(BURST))

    assert f"Deleted {BURST} tasks." in clear(yes=True)
    cleared_at = time.monotonic()

    assert second.order("flush")
    assert second.order("pending") == 0
    assert statuses() == {}

    while time.monotonic() <= cleared_at + AGE_MARGIN_SECONDS:
        pass  # Younger than that, it would count as older.
    second.order("done", ids=ids[:1])
    assert second.order("flush")
    assert statuses() == {100: "done"}


class Notice(logging.Handler):
    """Waits for a record with a certain text."""

    def __init__(self, text):
        super().__init__()
        self.text = text
        self.came = threading.Event()

    def emit(self, record):
        if self.text in record.getMessage():
            self.came.set()


@pytest.mark.parametrize("store", ["orm", "upsert"])
@pytest.mark.parametrize("clock", [0.0, HOUR, -HOUR])
def test_a_flush_in_the_middle_is_waited_out(clock, database, store, second):
    """Its rows go with the others; none comes back after the command has returned."""
    write([1])
    cleared = []

    def work():
        cleared.append(clear(yes=True))
        connections.close_all()

    second.begin(clock, store)
    assert second.order("hold_next_flush", ids=[make_id(2)])
    clearing = threading.Thread(target=work)
    with logging_to(Notice("Waiting for a process that is writing")) as notice:
        clearing.start()
        if database == "default":  # SQLite waits by itself, and logs nothing.
            clearing.join(0.5)
        else:
            assert notice.came.wait(LIMIT_SECONDS), "it did not wait for the flush"
    assert clearing.is_alive(), "it did not wait for the flush"
    assert second.order("release")
    clearing.join(LIMIT_SECONDS)
    assert not clearing.is_alive()

    assert "Deleted 2 tasks." in cleared[0]
    assert statuses() == {}


def test_a_flush_that_never_ends_is_reported(server_database, monkeypatch, second):
    """Nothing is deleted, and the error says where to look."""
    from taskstate.management.commands import clear_tasks

    monkeypatch.setattr(clear_tasks, "WAIT_SECONDS", 0.1)
    write([1])
    second.begin()
    assert second.order("hold_next_flush", ids=[make_id(2)])
    with pytest.raises(CommandError, match="find its transaction"):
        clear(yes=True)
    assert statuses() == {1: "enqueued"}
    assert second.order("release")

    assert statuses() == {1: "enqueued", 2: "enqueued"}


@pytest.mark.parametrize("make_store", [OrmStore, UpsertStore])
def test_only_what_is_older_than_the_clear_is_dropped(database, make_store):
    """By its age when it is written: a store with a clock of its own shows where the line is."""
    assert raise_fence(database, timeout=LIMIT_SECONDS)
    store = make_store(clock=lambda: 1000.0)
    old = make_pending(make_transition(message_id=make_id(1), happened_at=1000.0 - HOUR))
    new = make_pending(make_transition(message_id=make_id(2), happened_at=1000.0 + HOUR))

    written = store.write([old, new])

    assert statuses() == {2: "enqueued"}
    assert (len(written.changes), written.unchanged) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (["--older-than", "1d"], [0, 1, 2, 10]),
        (["--older-than", "3d"], [0, 1, 2, 3, 4, 5, 10]),
        (["--older-than", "1d", "--status", "failed", "--status", "running"], [0, 1, 3, 5, 10]),
        (["--status", "done"], [0, 1, 2, 4, 5, 10]),
    ],
)
def test_only_old_tasks_of_some_statuses(arguments, left, database):
    """By default those that are finished, however active tasks stand."""
    for number, status in enumerate(Status):
        write_old([number], status)
    at = int(time.time() * 1000)
    write_now = make_transition(Status.DONE, at=at, enqueued_at=at, message_id=make_id(10))
    OrmStore().write([make_pending(write_now)])

    assert f"Deleted {7 - len(left)} task" in clear(*arguments, "--yes")
    assert sorted(statuses()) == left


def test_old_tasks_are_asked_for_as_well(sqlite, answer):
    """With what they are; nothing is cleared for other processes, and the command does not wait."""
    asked = answer("n")
    write_old(range(3), Status.DONE)
    with pytest.raises(CommandError, match="Nothing was deleted"):
        clear("--older-than", "1d")
    assert len(statuses()) == 3

    answer("y")
    assert clear("--older-than", "1d") == "Deleted 3 tasks.\n"
    which = "(done, failed, skipped; unchanged for 1d)"
    assert asked == [f"Delete 3 tasks {which} from the database 'default'? [y/N] "] * 2


@pytest.mark.parametrize(
    ("arguments", "report"),
    [
        ([], "running              2\ndone             1,200\nWould delete 1,202 tasks.\n"),
        (["--older-than", "1d"], "done             1,200\nWould delete 1,200 tasks.\n"),
        (["--status", "failed"], "Would delete 0 tasks.\n"),
    ],
)
def test_a_dry_run(arguments, report, database, answer):
    """It counts by status, asks nothing, deletes nothing, and clears nothing for others."""
    asked = answer("y")
    write_old(range(1200), Status.DONE)
    write_old(range(1200, 1202), Status.RUNNING)

    assert clear("--dry-run", *arguments) == report
    assert asked == []
    assert len(statuses()) == 1202
    write_old([2000], Status.DONE)
    assert len(statuses()) == 1203


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--older-than", ""], "--older-than: '' is not a valid age"),
        (["--older-than", "1w"], "--older-than: '1w' is not a valid age"),
        (["--older-than", "59s"], "59 seconds is too short.*Use 60s or more"),
        (["--status", "gone"], "invalid choice: 'gone' .choose from '?enqueued'?, '?delayed"),
        (["--batch-size", "0"], "A batch size of 0 is out of range.*1 to 10,000"),
        (["--batch-size", "10001"], "A batch size of 10001 is out of range"),
        (["--batch-size", "many"], "--batch-size: invalid int value: 'many'"),
    ],
)
def test_bad_options(arguments, message, sqlite, answer):
    """The error names the option, the value and what to do, before any question."""
    asked = answer("y")
    write_old([1], Status.DONE)
    with pytest.raises(CommandError, match=message):
        clear(*arguments)

    assert asked == []
    assert len(statuses()) == 1


def test_options_from_python(sqlite):
    """Those that the command line would have rejected."""
    write_old([1], Status.DONE)
    with pytest.raises(CommandError, match="'gone' is not a status of a task"):
        clear(status=["gone"], yes=True)
    with pytest.raises(CommandError, match="No status is given"):
        clear(status=[], yes=True)
    with pytest.raises(CommandError, match="A batch size of '5' is out of range"):
        clear(batch_size="5", yes=True)
    assert len(statuses()) == 1

    assert "Deleted 1 task." in clear(status=["done"], older_than="1d", yes=True)


def test_where_there_is_no_terminal_a_line_now_and_then(sqlite):
    """For the log of a cron job."""
    write_old(range(25), Status.DONE)

    assert clear("--older-than", "1d", "--batch-size", "1", "--yes").splitlines() == [
        "10 deleted so far ...",
        "20 deleted so far ...",
        "Deleted 25 tasks.",
    ]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_one_line_that_changes(sqlite, answer, monkeypatch):
    """How many of how many, and how fast; it is gone in the end."""
    from taskstate.management.commands import clear_tasks

    monkeypatch.setattr(clear_tasks, "REDRAW_SECONDS", 0.0)
    answer("y")
    write_old(range(25), Status.DONE)
    lines = clear("--older-than", "1d", "--batch-size", "10", "--no-color", out=Terminal())

    first, second, third, gone, last = lines.split("\r")[1:]
    assert re.fullmatch(r"10 of 25 \(40 %\) deleted, [\d,]+ per second *", first)
    assert re.fullmatch(r"20 of 25 \(80 %\) deleted, [\d,]+ per second *", second)
    assert third.startswith("25 of 25 (100 %) deleted")
    assert len({len(line) for line in (first, second, third, gone)}) == 1
    assert not gone.strip()
    assert last == "Deleted 25 tasks.\n"


def test_a_terminal_is_not_flooded(sqlite, monkeypatch):
    """The line is drawn some times in a second; without a question they are not counted."""
    from taskstate.management.commands import clear_tasks

    monkeypatch.setattr(clear_tasks, "REDRAW_SECONDS", HOUR)
    write_old(range(25), Status.DONE)
    text = clear("--status", "done", "--batch-size", "1", "--yes", "--no-color", out=Terminal())

    first, gone, last = text.split("\r")[1:]
    assert re.fullmatch(r"1 deleted, [\d,]+ per second *", first)
    assert not gone.strip()
    assert last == "Deleted 25 tasks.\n"


def test_rows_that_another_transaction_holds_are_reported(server_database, monkeypatch):
    """Rather than with the database's error alone."""
    monkeypatch.setattr(retention, "TRIES", 1)
    write_old([1], Status.DONE)
    other = connections[server_database].copy()
    try:
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute("UPDATE taskstate_task SET attempt = 2")
        with pytest.raises(CommandError, match=r"Another transaction holds tasks.*0 were deleted"):
            clear("--status", "done", "--yes")
    finally:
        other.rollback()
        other.close()
