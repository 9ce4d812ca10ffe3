"""What commands write, in processes of their own: hostile texts, and outputs that fail."""

import contextlib
import os
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pytest

from taskstate.models import Task
from taskstate.stores.orm import OrmStore
from taskstate.transitions.status import Status
from tests.support.factories import make_id, make_pending, make_transition
from tests.support.limits import LIMIT_SECONDS
from tests.support.processes import ROOT, environment

HOUR = 3_600_000
#: It writes to the clipboard, forges a row, turns the line around, and isn't ASCII.
HOSTILE = "Café\x1b]52;c;cm0gLXJm\x07\r\n2026-01-01 00:00:00  done  forged\u202e\u2028\x9b2J"

OLD = ("--older-than", "4h")
ENCODINGS = {
    "utf-8": {"PYTHONIOENCODING": "utf-8"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    # Empty is as if it were not set; tox sets it.
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""},
}


def write(count, description=HOSTILE):
    """Write running tasks that have not changed for five hours."""
    at = int(time.time() * 1000) - 5 * HOUR
    OrmStore().write(
        [
            make_pending(
                make_transition(
                    Status.RUNNING,
                    at=at,
                    enqueued_at=at,
                    message_id=make_id(number),
                    description=description,
                )
            )
            for number in range(count)
        ]
    )


def start(*arguments, way=("-m", "django"), output=subprocess.PIPE, **env):
    """Run a command to its end, without an input; return the finished process."""
    return subprocess.run(
        [*CLOSING[output is None], sys.executable, *way, *arguments],
        env=environment("default", **env),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.PIPE,
        timeout=LIMIT_SECONDS * 2,
        check=False,
    )


#: What comes before a command so that its standard output is closed.
CLOSING = {False: [], True: ["sh", "-c", 'exec "$@" >&-', "sh"]}


@contextlib.contextmanager
def ending_early(kind):
    """Yield an output that takes nothing; None stands for a closed one."""
    if kind == "closed":
        yield None
    elif kind == "full":
        with Path("/dev/full").open("w") as full:
            yield full
    else:
        reader, writer = os.pipe()
        os.close(reader)
        yield writer
        os.close(writer)


@pytest.mark.parametrize("env", ENCODINGS.values(), ids=list(ENCODINGS))
@pytest.mark.parametrize("command", ["check_tasks", "watch_tasks"])
def test_texts_of_tasks_can_not_command_a_terminal_or_forge_a_row(command, env, sqlite):
    """Each task is one line, of what is visible and what the output's encoding has."""
    write(2)
    more = {"check_tasks": [*OLD, "--mark-failed"], "watch_tasks": ["--once"]}
    done = start(command, *more[command], **env)

    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode(env["PYTHONIOENCODING"] or "ascii").splitlines()
    assert len(lines) == 3, "two tasks, and one line of the command's own"
    assert sum("forged" in line for line in lines) == 2
    assert {unicodedata.category(c) for c in "".join(lines)}.isdisjoint({"Cc", "Cf", "Zl"})
    assert ("Café" in "".join(lines)) is (env == ENCODINGS["utf-8"])
    if command == "check_tasks":
        assert Task.objects.filter(status="failed").count() == 2


@pytest.fixture(params=["pipe", "closed", "full"])
def output(request):
    """An output whose reader is gone, a closed one, and a full disk."""
    with ending_early(request.param) as output:
        yield request.param, output


def check_end(done, kind):
    """A full disk is an error; an output that was closed is not."""
    errors = done.stderr.decode()
    if kind == "full":
        assert done.returncode == 1, errors
        assert "Not every line could be written to the output: [Errno 28]" in errors
        assert len(errors.splitlines()) == 1
    else:
        assert (done.returncode, errors) == (0, "")


#: ``manage.py``, where pages of tasks are small.
SMALL_PAGES = """
import django
django.setup()
from django.core.management import execute_from_command_line
from taskstate.management.commands import check_tasks
check_tasks.PAGE_SIZE = 100
execute_from_command_line()
"""


@pytest.mark.parametrize("unbuffered", ["1", ""])
def test_every_task_is_marked_whatever_becomes_of_the_output(unbuffered, output, sqlite):
    """On all pages, whether a line fails when it is written or when the process ends; a page fills
    the buffer of the output."""
    write(110, "Export")
    kind, file = output
    done = start(
        *("check_tasks", *OLD, "--mark-failed"),
        way=("-c", SMALL_PAGES),
        output=file,
        PYTHONUNBUFFERED=unbuffered,
    )

    assert Task.objects.filter(status="failed", error="lost").count() == 110
    check_end(done, kind)


def test_every_task_is_deleted_whatever_becomes_of_the_output(output, sqlite):
    """The lines of its progress, of which each batch may write one, end no batch."""
    write(50, "Export")
    kind, file = output
    done = start(
        "clear_tasks",
        *("--older-than", "1h", "--status", "running", "--batch-size", "2", "--yes"),
        output=file,
        PYTHONUNBUFFERED="1",
    )

    assert Task.objects.count() == 0
    check_end(done, kind)


@pytest.mark.parametrize("command", [["check_tasks"], ["watch_tasks", "--once"]])
def test_a_list_that_is_cut_off_is_no_error(command, sqlite):
    """``check_tasks | head``: what remains is the exit status, and how many there are."""
    write(300, "Export")
    with ending_early("pipe") as file:
        done = start(command[0], *command[1:], *(OLD if len(command) == 1 else ()), output=file)

    errors = done.stderr.decode()
    if command == ["check_tasks"]:
        assert done.returncode == 1
        assert errors.startswith("CommandError: 300 tasks are enqueued or running")
        assert len(errors.splitlines()) == 1
    else:
        assert (done.returncode, errors) == (0, "")


def test_without_an_output_no_question_is_asked(output, sqlite):
    """Nothing is deleted then, and the error names the option that skips the question."""
    write(1)
    _, file = output
    done = start("clear_tasks", output=file)

    assert Task.objects.count() == 1
    assert done.returncode == 1
    assert "Nothing was deleted" in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
