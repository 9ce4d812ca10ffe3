"""``check_tasks``: tasks that have not been updated for a long time."""

import datetime
import io
import time

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from taskstate.models import Task
from taskstate.stores.orm import OrmStore
from taskstate.stores.upsert import UpsertStore
from taskstate.transitions.status import FINISHED, Status
from tests.support.factories import make_id, make_pending, make_transition

HOUR = 3_600_000


def check(*arguments):
    out = io.StringIO()
    call_command("check_tasks", *arguments, stdout=out)
    return out.getvalue()


def write(number, status, hours_ago, store=OrmStore, **values):
    at = int(time.time() * 1000) - hours_ago * HOUR
    transition = make_transition(status, at=at, message_id=make_id(number), **values)
    return store().write([make_pending(transition)])


def test_it_lists_what_was_not_updated_for_long(database):
    """Oldest first; newer, delayed and finished tasks are left out."""
    write(1, Status.RUNNING, 5, description="Export 7")
    write(2, Status.ENQUEUED, 6, actor_name="mail")
    write(3, Status.RUNNING, 3)
    for number, status in enumerate([Status.DELAYED, *FINISHED], start=4):
        write(number, status, 9)
    out = io.StringIO()
    with pytest.raises(
        CommandError, match=r"2 tasks are .* not been updated for 4h.*--mark-failed"
    ):
        call_command("check_tasks", "--older-than", "4h", stdout=out)

    first, second = out.getvalue().splitlines()
    assert "enqueued" in first
    updated_at = timezone.localtime(Task.objects.get(pk=make_id(2)).updated_at)
    assert first.startswith(f"{updated_at:%Y-%m-%d %H:%M:%S} "), "not in the time zone of the site"
    assert make_id(2) in first
    assert "mail" in first
    assert "running" in second
    assert "Export 7" in second
    assert Task.objects.filter(error=None).count() == 7


def test_nothing_to_list(sqlite):
    """The exit status is 0."""
    write(1, Status.RUNNING, 3)

    assert "0 tasks are enqueued" in check("--older-than", "4h")
    assert "0 tasks are enqueued" in check()


@pytest.mark.parametrize("store", [OrmStore, UpsertStore])
def test_it_marks_them_as_lost_until_they_are_updated(database, store, signals):
    """The change is announced; the rank stays, so that a late transition still wins."""
    write(1, Status.RUNNING, 5, store, error="Boom", traceback="of the attempt before")
    before = Task.objects.get()
    out = check("--older-than", "4h", "--mark-failed")

    assert make_id(1) in out
    assert "running" in out
    assert "Marked 1 task as failed: no update for 4h." in out
    task = Task.objects.get()
    assert (task.status, task.error, task.rank) == ("failed", "lost", before.rank)
    assert task.traceback is None
    assert task.written_at > before.written_at, "a client that polls for changes would miss it"
    assert task.finished_at == task.updated_at
    assert task.finished_at - before.updated_at > datetime.timedelta(hours=4)
    ((announced, transitions),) = signals
    assert (announced.status, announced.error, announced.rank) == ("failed", "lost", before.rank)
    assert announced.finished_at == task.finished_at
    assert transitions == (Status.FAILED,)
    assert "Marked 0 tasks as failed" in check("--older-than", "4h", "--mark-failed")

    # A repeated write, because the reply to the commit was lost, changes nothing.
    write(1, Status.RUNNING, 6, store)
    assert Task.objects.get().error == "lost"
    write(1, Status.DONE, 0, store)
    task = Task.objects.get()
    assert (task.status, task.error) == ("done", None)


def test_a_task_that_is_updated_meanwhile_is_left_alone(sqlite, monkeypatch, signals):
    """Between its being listed and its being marked."""
    from taskstate.management.commands import check_tasks

    write(1, Status.RUNNING, 5)
    line = check_tasks._line

    def update(task):
        write(1, Status.DONE, 0)
        return line(task)

    monkeypatch.setattr(check_tasks, "_line", update)

    assert "Marked 0 tasks as failed" in check("--older-than", "4h", "--mark-failed")
    assert Task.objects.get().status == "done"
    assert signals == []


def test_more_than_a_page(sqlite, monkeypatch):
    """Each is marked once."""
    from taskstate.management.commands import check_tasks

    monkeypatch.setattr(check_tasks, "PAGE_SIZE", 3)
    for number in range(8):
        write(number, Status.ENQUEUED, 5)

    assert "Marked 8 tasks as failed" in check("--older-than", "4h", "--mark-failed")
    assert set(Task.objects.values_list("status", "error")) == {("failed", "lost")}


@pytest.mark.parametrize("text", ["", "soon", "4", "h", "-1h", "1.5h", "4 h", "4w", "9" * 7 + "s"])
def test_a_bad_age(text):
    """The error names the option, the value and what to do."""
    with pytest.raises(
        CommandError, match=r"--older-than: .*not a valid age; use 90s, 15m, 6h or 30d"
    ):
        check(f"--older-than={text}")


def test_an_age_that_no_calendar_has():
    """Subtracted from today it would be no date."""
    with pytest.raises(CommandError, match="'999999d' is more than a hundred years"):
        check("--older-than=999999d")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("6h", 21_600), ("30d", 2_592_000)]
)
def test_ages(text, seconds):
    """Each unit."""
    from taskstate.management.arguments import parse_age

    assert parse_age("--older-than", text) == datetime.timedelta(seconds=seconds)
