"""Clear: no row that predates a clear survives it, and none comes back.

What predates what is decided by the database's own clock, which the writers and this drill ask for
themselves: all that the package does about time is left out.
"""

import io
import random
import threading
import time

import pytest
from django.core.management import call_command

from taskstate.models import Task
from tests.faults.clock import database_time
from tests.faults.crowd import Crowd
from tests.faults.options import NIGHTLY

PROCESSES = 4
SECONDS = 60 if NIGHTLY else 12
HOUR = 3600.0

#: The longest pause between two clears, and the pause after the last one, in seconds.
PAUSE_SECONDS = 0.6
QUIET_SECONDS = 3.0
#: What is pushed so soon after a clear may count as older, if a process reads the fence so late.
GRACE_SECONDS = 1.0


def rows():
    return [(pk.int, status) for pk, status in Task.objects.values_list("pk", "status")]


class Clears:
    """What was there at each clear, to be judged when it is known what was pushed when."""

    def __init__(self, alias):
        self.alias = alias
        self.number = 0
        self.deleted = 0
        self.ended = 0.0
        self.slowest = 0.0
        #: (when the last clear began, the rows that are there after it), by the database's clock.
        self.looks = []

    def clear(self):
        out = io.StringIO()
        began = database_time(self.alias)
        call_command("clear_tasks", "--yes", stdout=out)
        self.ended = database_time(self.alias)
        self.slowest = max(self.slowest, self.ended - began)
        self.number += 1
        self.deleted += int(out.getvalue().split("Deleted ")[1].split()[0].replace(",", ""))
        self.looks.append((began, rows()))

    def look(self):
        """Look again, before the next clear: what was pending then may have been written."""
        if self.looks:
            self.looks.append((self.looks[-1][0], rows()))


@pytest.mark.timeout(SECONDS + 300)
def test_nothing_that_predates_a_clear_survives_it(database, report):
    """4 processes write through both stores, two of them with clocks that are an hour off, while
    the table is cleared again and again."""
    choice = random.Random(9)
    clears = Clears(database)
    pause = threading.Event()
    arguments = [
        (10**9 * number, ("orm", "upsert")[number % 2], (0.0, 0.0, HOUR, -HOUR)[number])
        for number in range(PROCESSES)
    ]
    with Crowd(database, "tests.faults.tracking", arguments) as crowd:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            pause.wait(choice.random() * PAUSE_SECONDS)
            clears.look()
            clears.clear()
        pause.wait(QUIET_SECONDS)
        answers = crowd.stop()
    clears.look()

    pushed, must_be_there = {}, {}
    for answer in answers:
        for before, after, transitions in answer["rounds"]:
            for message, status in transitions:
                pushed[message, status] = after
                if before > clears.ended + GRACE_SECONDS:
                    must_be_there[message] = status
    survivors = [row for began, found in clears.looks for row in found if pushed[row] < began]
    final = dict(clears.looks[-1][1])
    missing = [message for message, status in must_be_there.items() if final.get(message) != status]
    report(
        f"{len(pushed):,} transitions, {clears.number} clears "
        f"(the slowest took {clears.slowest:.1f} s) deleted {clears.deleted:,} rows, "
        f"{sum(answer['unchanged'] for answer in answers):,} came too late; "
        f"survivors {len(survivors)} in {len(clears.looks)} looks; after the last clear "
        f"{len(must_be_there):,} messages, missing {len(missing)}; "
        f"failed flushes {sum(answer['failures'] for answer in answers)}"
    )
    assert survivors == []
    assert missing == []
    assert all(answer["flushed"] for answer in answers)
    # It was a drill, and no idle run.
    assert clears.number >= 2
    assert clears.deleted > 0
    assert must_be_there
