"""Worker processes are killed at random moments, under load, and started again."""

import contextlib
import json
import os
import random
import signal
import threading
import time

import pytest

from taskstate.conf import Config
from tests.faults import acks
from tests.faults.load import Load, Queue
from tests.faults.options import NIGHTLY
from tests.faults.watching import until
from tests.support.processes import environment
from tests.support.workers import Rundramatiq, queue_of_its_own

pytestmark = pytest.mark.timeout(7200 if NIGHTLY else 900)

#: Set it to what a failed drill printed, and its random moments come again.
SEED = int(os.environ.get("TASKSTATE_FAULTS_SEED", random.SystemRandom().randrange(10**6)))
KILLS = 500 if NIGHTLY else 50
#: In default mode, where what is lost is measured.
DEFAULT_KILLS = 100 if NIGHTLY else 12

#: So many groups of workers are at work: one of them, while another one starts.
GROUPS = 2
PROCESSES = 2
THREADS = 4
OPTIONS = ("--processes", str(PROCESSES), "--threads", str(THREADS))
#: A group is killed so long after its start at most, with FLUSH_BEFORE_ACK and without: there a
#: process has to come to its steady pace.  Of each four kills, one hits all of a group.
LONGEST_LIFE = {True: 1.5, False: 4.0}
#: So long before a kill is looked for what may have held up the last flush.
LOOK_BACK_SECONDS = 2 * Config.flush_interval
WAITING = 400
READY_SECONDS = 60
DRAIN_SECONDS = 120
#: Twice as long as the demo project's actors delay a retry.
QUIET_SECONDS = 1.8


class Group(Rundramatiq):
    """A group of workers: a master, and its worker processes."""

    def wait_until_ready(self):
        until(lambda: len(self.ready()) == PROCESSES, READY_SECONDS)

    def kill_one(self, choose):
        """Kill one worker process; return its id.  The master then stops the others."""
        pid = choose(self.ready())
        os.kill(pid, signal.SIGKILL)
        return [pid]

    def kill(self):
        super().kill()
        self.logged = self.records()

    def kill_all(self):
        """Kill all of it at once; return the ids of its worker processes."""
        pids = self.ready()
        os.killpg(self.process.pid, signal.SIGKILL)
        return pids

    def bury(self):
        """Wait for the end of what was killed."""
        try:
            assert self.process.wait(READY_SECONDS) != 0
        finally:
            self.kill()
            self.log.close()


class Reaper:
    """Kills groups of workers at random moments, and starts others in their place.

    Parameters:
      env(dict): The environment of the workers.
      longest_life(float): How many seconds after their start they are killed at most.
    """

    def __init__(self, env, longest_life):
        self._env = env
        self._longest_life = longest_life
        self._random = random.Random(SEED)
        #: All groups, the dead ones first.
        self.groups = []
        self._pause = threading.Event()
        #: When each process was killed.
        self.killed = {}
        self.kills = self.whole_groups = 0

    def __enter__(self):
        for _ in range(GROUPS):
            self._start()
        return self

    def __exit__(self, *error):
        dead, alive = self.groups[: self.kills], self.groups[self.kills :]
        with contextlib.ExitStack() as stack:
            for group in dead:
                stack.callback(group.bury)
            for group in alive:
                stack.push(group)
            for group in alive:
                group.wait_until_ready()  # Before that, SIGTERM just ends it.

    def kill(self):
        """Kill a process or a group at a random moment after it began to work."""
        group = self.groups[self.kills]
        group.wait_until_ready()
        self._pause.wait(self._random.uniform(0, self._longest_life))
        is_whole = self._random.random() < 0.25
        pids = group.kill_all() if is_whole else group.kill_one(self._random.choice)
        self.killed.update(dict.fromkeys(pids, time.monotonic()))
        self.kills += 1
        self.whole_groups += is_whole
        self._start()

    def _start(self):
        self.groups.append(Group(self._env, *OPTIONS))


def drain(env, queue):
    """Let workers work off all that the broker holds.

    RabbitMQ doesn't count messages that a worker has fetched, delayed ones above all, until the
    worker has ended: it ends when nothing else was left for longer than a retry is delayed.
    """
    for _ in range(5):
        with Group(env, *OPTIONS) as workers:
            workers.wait_until_ready()
            wait_until_quiet(queue)
        if queue.held_without_workers() == 0:
            return
    pytest.fail(f"the broker still holds {queue.held()} messages")


def wait_until_quiet(queue):
    pause = threading.Event()
    began = busy_at = now = time.monotonic()
    while now < busy_at + QUIET_SECONDS:
        assert now < began + DRAIN_SECONDS, f"there still are {queue.held()} messages"
        pause.wait(0.05)
        now = time.monotonic()
        if queue.held():
            busy_at = now


@pytest.fixture(params=["redis", "rabbitmq"])
def queue_env(request):
    """The environment for a broker, and a queue of the drill's own there."""
    with queue_of_its_own(request.param) as env, Queue(request.param, env["DEMO_QUEUE"]) as queue:
        yield env, queue


@pytest.mark.parametrize("server", ["postgres"], indirect=True)
@pytest.mark.parametrize("before_ack", [True, False], ids=["before_ack", "default"])
def test_kills(before_ack, queue_env, drilled, tmp_path, report):
    """With FLUSH_BEFORE_ACK no final state is lost.  Without, only what was acknowledged in the
    last interval before a kill and during one flush is, and nothing is ever wrong."""
    report(f"TASKSTATE_FAULTS_SEED={SEED}")
    env, queue = queue_env
    env = environment(
        "postgres",
        **env,
        DATABASE=drilled,
        DEMO_TASKSTATE=json.dumps({"FLUSH_BEFORE_ACK": before_ack}),
        DEMO_MIDDLEWARE="taskstate.middleware.StateMiddleware,tests.faults.acks.AckLog",
        **{acks.FOLDER: str(tmp_path)},
    )
    began = time.monotonic()
    with Load(env, queue, WAITING) as load, Reaper(env, LONGEST_LIFE[before_ack]) as reaper:
        for _ in range(KILLS if before_ack else DEFAULT_KILLS):
            reaper.kill()
    took = time.monotonic() - began
    drain(env, queue)

    unfinished, others = load.faults()
    log = acks.AckReader(tmp_path)
    windows = {pid: window_of(pid, killed, log) for pid, killed in reaper.killed.items()}
    in_windows = sum(
        killed - windows[pid] <= moment <= killed
        for pid, killed in reaper.killed.items()
        for moment in log.moments[pid]
    )
    records = [record for group in reaper.groups for record in group.logged]
    # Of each message without an end: how long it was acknowledged before its process was killed.
    ages = []
    too_old = []
    unexplained = []
    for message_id in unfinished:
        moment, pid = log.last.get(message_id, (0.0, None))
        if pid not in reaper.killed:
            unexplained.append((message_id, pid))
            continue
        ages.append(reaper.killed[pid] - moment)
        if ages[-1] > windows[pid]:
            too_old.append((message_id, ages[-1], windows[pid]))
    oldest = max(ages, default=0)
    report(
        f"{load.sent:,} messages, {reaper.kills} kills ({reaper.whole_groups} of a whole group) in"
        f" {took:.0f} s; {len(unfinished)} rows without an end, {len(unexplained)} of them not by a"
        f" kill, {len(others)} wrong; the oldest was acknowledged {oldest:.2f} s before a kill, of"
        f" {in_windows:,} in windows of {min(windows.values()):.2f} to"
        f" {max(windows.values()):.2f} s; {len(records)} lines logged"
    )
    assert (others, unexplained, records) == ([], [], [])
    if before_ack:
        assert unfinished == []
    else:
        assert unfinished, "nothing was lost: the kills hit nothing"
        assert too_old == []
        assert len(unfinished) <= in_windows


def window_of(pid, killed, log):
    """Return how much time a process may lose: an interval and a flush, which is one statement.
    On a machine that is busy its thread may be late twice: when the flush is due, and between
    coalescing and the statement."""
    since = killed - LOOK_BACK_SECONDS
    statement = log.longest_statement(pid, since, killed)
    late = max(0.0, log.longest_lateness(pid, since, killed))
    return Config.flush_interval + statement + 2 * late
