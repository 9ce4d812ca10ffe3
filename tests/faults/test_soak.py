"""Workers at full load for long: what they hold doesn't grow."""

import dataclasses
import json
import os
import statistics
import threading
import time
from pathlib import Path

import pytest

from tests.faults.load import Load, Queue
from tests.faults.options import DATABASE, NIGHTLY
from tests.faults.watching import until
from tests.support.processes import environment
from tests.support.workers import Rundramatiq, queue_of_its_own

#: How long each of two runs takes, and how long of it they warm up: until every thread has had its
#: connections, every cache is filled, and the memory that a full queue takes was needed once.
SOAK_SECONDS = 600 if NIGHTLY else 60
WARM_UP_SECONDS = SOAK_SECONDS / 3
PAUSE_SECONDS = 0.5
READY_SECONDS = 60
DRAIN_SECONDS = 120

pytestmark = pytest.mark.timeout(SOAK_SECONDS * 2 + 300)

PROCESSES = 2
THREADS = 8
#: Sending takes nearly as much of a processor as processing: enough to keep the queue full where
#: processors are scarce.
SENDERS = 3
WAITING = 3000

#: What a process may grow by from the warm-up to the end.  Python gives memory back in pieces of
#: 256 KiB to 1 MiB, if nothing in them is used: a few of them come and go.  Redis's client has a
#: connection for each thread that ever used it at the same time as all others.
ALLOWED_BYTES = 2 * 1024 * 1024
ALLOWED_FILES = 3


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a process holds at a moment (Linux)."""

    resident: int
    threads: int
    files: int


def sample(pid):
    folder = Path("/proc", str(pid))
    pages = int((folder / "statm").read_text().split()[1])
    return Sample(
        resident=pages * os.sysconf("SC_PAGE_SIZE"),
        threads=len(list((folder / "task").iterdir())),
        files=len(list((folder / "fd").iterdir())),
    )


def watch(pids, postgres, seconds):
    """Look at processes for so long; return what each held, and how many connections to the
    database they had together, each time."""
    samples = {pid: [] for pid in pids}
    connections = []
    end = time.monotonic() + seconds
    pause = threading.Event()
    while time.monotonic() < end:
        for pid, seen in samples.items():
            seen.append(sample(pid))
        connections.append(
            postgres.execute(
                "SELECT count(*) FROM pg_stat_activity"
                f" WHERE datname = '{DATABASE}' AND application_name = 'workers'"
            )[0][0]
        )
        pause.wait(PAUSE_SECONDS)
    return samples, connections


def ends_of(samples, name):
    """Return what a process held at the end of the warm-up, and what at the end: the median of a
    sixth of its samples each."""
    values = [getattr(sample, name) for sample in samples]
    warm = round(len(values) * WARM_UP_SECONDS / SOAK_SECONDS)
    length = len(values) // 6
    return statistics.median(values[warm : warm + length]), statistics.median(values[-length:])


@pytest.mark.parametrize("server", ["postgres"], indirect=True)
@pytest.mark.parametrize("before_ack", [False, True], ids=["default", "before_ack"])
def test_soak(before_ack, drilled, postgres, report):
    """Memory, threads, files and connections of the worker processes stay as they are."""
    with queue_of_its_own("redis") as queue_env, Queue("redis", queue_env["DEMO_QUEUE"]) as queue:
        env = environment(
            "postgres",
            **queue_env,
            DATABASE=drilled,
            DEMO_TASKSTATE=json.dumps({"FLUSH_BEFORE_ACK": before_ack}),
        )
        workers_env = {**env, "DATABASE": f"{drilled}?application_name=workers"}
        options = ("--processes", str(PROCESSES), "--threads", str(THREADS))
        with Rundramatiq(workers_env, *options) as workers:
            until(lambda: len(workers.ready()) == PROCESSES, READY_SECONDS)
            with Load(env, queue, WAITING, SENDERS) as load:
                held_at_first = queue.held()
                sent_at_first = load.sent
                samples, connections = watch(workers.ready(), postgres, SOAK_SECONDS)
                worked_off = load.sent - sent_at_first + held_at_first - queue.held()
            until(lambda: queue.held() == 0, DRAIN_SECONDS)
        unfinished, others = load.faults()

    waiting = statistics.median(load.lows)
    report(
        f"{worked_off:,} messages in {SOAK_SECONDS} s, the queue at {waiting:,.0f} of {WAITING:,}"
        f" when it was filled up; {load.sent:,} rows, {len(unfinished)} without an end,"
        f" {len(others)} wrong"
    )
    grown = {}
    for pid, seen in samples.items():
        figures = {name: ends_of(seen, name) for name in ("resident", "threads", "files")}
        grown[pid] = {name: after - before for name, (before, after) in figures.items()}
        memory = " to ".join(f"{size / 2**20:.2f}" for size in figures["resident"])
        report(
            f"a worker process: {memory} MiB, threads {figures['threads'][0]:g} to"
            f" {figures['threads'][1]:g}, files {figures['files'][0]:g} to {figures['files'][1]:g}"
        )
    report(f"connections to the database, of all workers: {min(connections)} to {max(connections)}")
    assert (unfinished, others) == ([], [])
    assert waiting > 0, "the workers had nothing to do at times"
    for growth in grown.values():
        assert growth["resident"] <= ALLOWED_BYTES
        assert growth["threads"] == 0
        assert growth["files"] <= ALLOWED_FILES
    assert max(connections) == PROCESSES, "one for each writer, and none for a worker's thread"
