"""One process of ``test_concurrency``: its threads push random transitions of the same messages.

The greatest transition of each message is also kept here, by this file's own order.
"""

import dataclasses
import logging
import random
import sys
import threading
import time

import django

django.setup()

import taskstate  # noqa: E402
from taskstate.middleware import StateMiddleware  # noqa: E402
from taskstate.signals import task_changed  # noqa: E402
from taskstate.transitions.status import Status  # noqa: E402
from tests.faults.crowd import run  # noqa: E402
from tests.support.factories import START, make_id, make_transition  # noqa: E402

THREADS = 8
FLUSH_SECONDS = 60
#: Transitions belong to so many messages at a time, and each second to so many new ones: rows are
#: inserted and updated all the time.
WINDOW = 150
NEW_PER_SECOND = 50

#: The longest pause of a thread between two handfuls.
PAUSE_SECONDS = 0.2

#: Status to (phase, order within the phase).
PLACES = {
    "enqueued": (0, 0),
    "delayed": (0, 1),
    "running": (1, 0),
    "done": (2, 0),
    "skipped": (2, 1),
    "failed": (2, 2),
}

stopping = threading.Event()
lines = []


class Keep(logging.Handler):
    """Keeps what is logged, in its order."""

    def emit(self, record):
        lines.append((record.levelname, record.getMessage()))


def push_transitions(state, choice, best):
    """Push transitions until it is time to stop; return how many."""
    pushed = 0
    pause = threading.Event()
    began = time.monotonic()
    while not stopping.is_set():
        first = int((time.monotonic() - began) * NEW_PER_SECOND)
        for _ in range(choice.randint(1, 20)):
            number = first + choice.randrange(WINDOW)
            status = choice.choice(list(PLACES))
            stamp, at, attempt = choice.randrange(3), choice.randrange(5), choice.randint(1, 3)
            started_at, enqueued_at = choice.choice([None, 0, 1]), choice.randrange(2)
            description = choice.choice(["", "a", "B", "ä", "😀"])
            user = choice.choice([None, 2, 10])
            state._writer.push(
                make_transition(
                    Status(status),
                    stamp,
                    START + at,
                    message_id=make_id(number),
                    attempt=attempt,
                    started_at=None if started_at is None else START + started_at,
                    enqueued_at=START + enqueued_at,
                    description=description,
                    user_pk=user,
                )
            )
            phase, order = PLACES[status]
            started_key = -1 if started_at is None else started_at
            user_key = "" if user is None else str(user)
            rank = (stamp, phase, at, order)
            key = (*rank, attempt, started_key, enqueued_at, description, user_key)
            best[number] = max(best.get(number, key), key)
            pushed += 1
        pause.wait(choice.random() * PAUSE_SECONDS)
    return pushed


def work():
    seed, store, listens = sys.argv[1:]
    logger = logging.getLogger("taskstate")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(Keep())
    if listens == "True":  # Then the stores look for what was changed.
        task_changed.connect(lambda **kwargs: None, weak=False)
    state = StateMiddleware(store=store, flush_interval=0.02, max_batch_size=60)
    best = [{} for _ in range(THREADS)]
    pushed = []

    def push(number):
        pushed.append(push_transitions(state, random.Random(f"{seed} {number}"), best[number]))

    threads = [threading.Thread(target=push, args=[number]) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    flushed = taskstate.flush(FLUSH_SECONDS)
    return {
        "greatest": [pair for each in best for pair in each.items()],
        "pushed": sum(pushed),
        "flushed": flushed,
        "stats": dataclasses.asdict(taskstate.stats()),
        "lines": lines,
    }


run(work, stopping)
