"""Many processes write the same messages at once: each row is the greatest of its transitions."""

import datetime
import threading
import time

import pytest

from taskstate.models import Task
from tests.faults.crowd import Crowd
from tests.faults.options import NIGHTLY
from tests.support.factories import START

PROCESSES = 8
#: A minute for the three databases together.
SECONDS = 120 if NIGHTLY else 20

STATUSES = {
    (0, 0): "enqueued",
    (0, 1): "delayed",
    (1, 0): "running",
    (2, 0): "done",
    (2, 1): "skipped",
    (2, 2): "failed",
}
#: How the databases call what one writer does to another, besides making it wait for too long.
CONFLICTS = ("deadlock", "could not serialize", "Record has changed", "Duplicate entry")
TOO_LONG = ("lock timeout", "Lock wait timeout", "database is locked")
IN_THE_WAY = "In conflict with another writer"
#: A batch is tried so often more, one try after the other, before that is called an outage.
RETRIES = 3


COLUMNS = (
    *("status", "attempt", "description", "user_id", "enqueued_at"),
    *("started_at", "finished_at", "updated_at", "error", "stamp", "rank"),
)


def moment(milliseconds):
    utc = datetime.timezone.utc
    return datetime.datetime.fromtimestamp(START / 1000, utc) + datetime.timedelta(
        milliseconds=milliseconds
    )


def row_of(key):
    """Return the columns of a transition, by the documentation alone."""
    stamp, phase, at, order, attempt, started_at, enqueued_at, description, user = key
    return {
        "status": STATUSES[phase, order],
        "attempt": attempt,
        "description": description,
        "user_id": int(user) if user else None,
        "enqueued_at": moment(enqueued_at),
        "started_at": None if started_at < 0 else moment(started_at),
        "finished_at": moment(at) if phase == 2 else None,
        "updated_at": moment(at),
        "error": None,
        "stamp": stamp,
        "rank": (phase * 2**42 + START + at) * 4 + order,
    }


def watch_ranks(seconds):
    """Watch the table for so long: no row ever goes back."""
    ranks, looks = {}, 0
    pause = threading.Event()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for pk, stamp, below in Task.objects.values_list("pk", "stamp", "rank"):
            rank = (stamp, below)
            assert rank >= ranks.get(pk, (0, 0)), f"the row {pk} went back"
            ranks[pk] = rank
        looks += 1
        pause.wait(0.2)
    return looks


def unexplained(lines):
    """Return what was logged above debug and isn't an outage that the retries couldn't avoid."""
    found = []
    for place, (level, line) in enumerate(lines):
        if level == "DEBUG" or "are written again" in line:
            continue
        retries = [text for _, text in lines[max(0, place - RETRIES) : place]]
        tried = len(retries) == RETRIES and all(IN_THE_WAY in text for text in retries)
        if "can't be written" in line and any(word in line for word in TOO_LONG):
            continue
        if "can't be written" in line and any(word in line for word in CONFLICTS) and tried:
            continue
        found.append(line)
    return found


def greatest_of(answers):
    """Return the greatest transition of each message, out of those that each thread kept."""
    greatest = {}
    for answer in answers:
        for number, key in answer["greatest"]:
            greatest[number] = max(greatest.get(number, key), key)
    return greatest


@pytest.mark.timeout(SECONDS + 300)
def test_every_row_is_the_greatest_of_its_transitions(database, report):
    """8 processes of 8 threads push overlapping messages in random order, through both stores,
    with and without a receiver."""
    arguments = [
        (number, ("orm", "upsert")[number % 2], number // 2 % 2 == 0) for number in range(PROCESSES)
    ]
    with Crowd(database, "tests.faults.merging", arguments) as crowd:
        looks = watch_ranks(SECONDS)
        answers = crowd.stop()

    expected = {number: row_of(key) for number, key in greatest_of(answers).items()}
    found = {row.pop("message_id").int: row for row in Task.objects.values("message_id", *COLUMNS)}
    wrong = [
        number for number in expected.keys() & found.keys() if expected[number] != found[number]
    ]
    total = {
        name: sum(answer["stats"][name] for answer in answers)
        for name in (
            "transitions",
            "flushes",
            "rows_unchanged",
            "failed_flushes",
            "dropped",
            "rejected",
        )
    }
    pushed = sum(answer["pushed"] for answer in answers)
    lines = [line for answer in answers for line in answer["lines"]]
    conflicts = sum(IN_THE_WAY in line for _, line in lines)
    report(
        f"{pushed:,} transitions of {len(expected):,} messages in {total['flushes']:,} flushes; "
        f"missing {len(expected.keys() - found.keys())}, wrong {len(wrong)}, went back 0 "
        f"({looks} looks); {conflicts} conflicts, {total['failed_flushes']} flushes failed, "
        f"{sum(level != 'DEBUG' for level, _ in lines)} lines above debug"
    )
    assert found.keys() == expected.keys()
    assert wrong == []
    assert all(answer["flushed"] for answer in answers)
    assert total["transitions"] == pushed
    assert (total["dropped"], total["rejected"]) == (0, 0)
    assert [line for answer in answers for line in unexplained(answer["lines"])] == []
