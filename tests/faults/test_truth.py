"""Rows against what the actors write down themselves: chains, groups, second lives, on any broker,
with workers that are killed and stopped, with messages that are delivered twice, with wrong clocks.
"""

import contextlib
import json
import os
import random
import signal
import threading
from pathlib import Path

import pytest

from tests.faults import brokers
from tests.faults.load import Queue
from tests.faults.options import NIGHTLY
from tests.faults.works.site import Site, summarize
from tests.support import servers
from tests.support.databases import use_database

pytestmark = pytest.mark.timeout(3600 if NIGHTLY else 600)

SEED = int(os.environ.get("TASKSTATE_FAULTS_SEED", random.SystemRandom().randrange(10**6)))

#: How many messages of each kind, and how many chains and groups.
NUMBER = 10 if NIGHTLY else 1
CHAINS = 40 if NIGHTLY else 8

#: The brokers, and whether our middleware comes first.  By day, the quick ones.
BROKERS = ["pg-", "sqs-first"]
if NIGHTLY:
    BROKERS = [
        f"{name}-{place}"
        for name in ["stub", "redis", "rabbitmq", "pg", "sqs", "eager", "eager_fail_fast"]
        for place in ["", "first"]
    ]

CLOCKS = Path(__file__).with_name("clocks")


@pytest.fixture
def alias(settings, django_db_setup, django_db_blocker):
    """A database for the rows."""
    with use_database(servers.DATABASES[1], settings, django_db_blocker) as alias:
        yield alias


@pytest.fixture
def journal(tmp_path):
    """The folder that the actors write to."""
    folder = tmp_path / "journal"
    folder.mkdir()
    return folder


def send(site, sender, life, *, number=NUMBER, chains=CHAINS, heads=True, **how):
    """Send messages of all kinds, or send them again.

    Parameters:
      heads(bool): Whether to send chains whose heads are sent again.
      how(dict): How the single ones are sent.
    """
    site.begin_life(life)
    for kind in ["object", "head"] if heads else ["object"]:
        ids = sender.order("pipelines", number=chains, life=life, how=kind)
        site.note(f"pipelines ({kind}), life {life}", ids)
    ids = sender.order("singles", number=number, life=life, **how)
    site.note(f"singles, life {life}", ids)
    site.note(f"groups, life {life}", sender.order("groups", number=chains, life=life))
    assert sender.order("flush")


def check(site, life, report):
    """Report what is wrong, and return it."""
    rows, wrong = site.wrong()
    report(f"life {life}: {sum(wrong.values())} of {rows} rows wrong{summarize(wrong)}")
    return wrong


@pytest.mark.parametrize("name", BROKERS)
def test_every_row_says_what_its_actor_did(name, alias, journal, tmp_path, report):
    """In a first life, and in a second one: a chain that is run again, a group that is, a head that
    is sent again, a message with fresh options and the same id."""
    name, _, first = name.partition("-")
    make = getattr(brokers, name)
    # What fails where it is sent is not followed by the rest of its chain.
    fails_fast = make is brokers.eager_fail_fast
    wrong = []
    with contextlib.ExitStack() as stack:
        env = stack.enter_context(make(tmp_path / "packages"))
        site = Site(env, alias, journal, WORKS_FIRST=first, DEMO_TASKSTATE='{"KEEP_MESSAGE": true}')
        if make in brokers.EAGER:
            site.statuses["skip"] = "failed"  # To this broker it is an exception as any other.
        site.has_retries = not fails_fast
        sender = stack.enter_context(site.sender())
        if make not in brokers.IN_PLACE:
            # A second process of dramatiq-pg does not get what the first one has had.
            workers = site.workers(processes=1 if make is brokers.pg else 2)
            stack.enter_context(workers)
        for life in range(2):
            send(site, sender, life, heads=not fails_fast, delays=True)
            site.finish(is_complete=not fails_fast)
            assert sender.order("flush")
            wrong.append(check(site, life, report))
    assert wrong == [{}, {}]


@pytest.mark.parametrize("name", ["rabbitmq", "redis"] if NIGHTLY else ["rabbitmq"])
def test_every_row_is_right_after_kills_and_stops(name, alias, journal, report):
    """Of workers, at random moments, in both lives."""
    report(f"TASKSTATE_FAULTS_SEED={SEED}")
    choice = random.Random(SEED)
    pause = threading.Event()
    options = {"KEEP_MESSAGE": True, "FLUSH_BEFORE_ACK": True}
    wrong = []
    with contextlib.ExitStack() as stack:
        env = stack.enter_context(getattr(brokers, name)(None))
        queue = stack.enter_context(Queue(name, env["DEMO_QUEUE"]))
        site = Site(env, alias, journal, DEMO_TASKSTATE=json.dumps(options), WORKS_SECONDS="0.1")
        sender = stack.enter_context(site.sender())
        for life in range(2):
            send(site, sender, life, delays=True)
            for turn in range(15 if NIGHTLY else 2):
                workers = site.start_workers()
                pause.wait(choice.uniform(0, 2))
                end(workers, ["kill one", "stop", "kill all"][(life + turn) % 3], choice)
            drain(site, queue)
            wrong.append(check(site, life, report))
    assert wrong == [{}, {}]


def end(workers, how, choice):
    """End a group of workers, and wait for that."""
    try:
        if how == "stop":
            workers.stop()
        elif how == "kill one":
            os.kill(choice.choice(workers.ready()), signal.SIGKILL)
            assert workers.process.wait(60) != 0, "the others are stopped, and it says so"
        else:
            os.killpg(workers.process.pid, signal.SIGKILL)
    finally:
        workers.kill()
        workers.log.close()


def drain(site, queue):
    """Let workers work off all that the broker holds."""
    for _ in range(5):
        with site.workers():
            # A group's callback doesn't run if one of its messages was lost and found.
            site.finish(is_complete=False, is_idle=lambda: queue.held() == 0)
        if queue.held_without_workers() == 0:
            return
    pytest.fail(f"the broker still holds {queue.held()} messages")


def test_every_row_is_right_if_messages_are_delivered_twice(alias, journal, report):
    """While the first worker still runs them: Redis takes it for dead, and it isn't."""
    pause = threading.Event()
    wrong = []
    with contextlib.ExitStack() as stack:
        alive = {"heartbeat_timeout": 1000, "maintenance_chance": 1_000_000}
        env = stack.enter_context(brokers.redis(None, **alive))
        queue = stack.enter_context(Queue("redis", env["DEMO_QUEUE"]))
        store = '{"KEEP_MESSAGE": true}'
        site = Site(env, alias, journal, DEMO_TASKSTATE=store, WORKS_SECONDS="0.2")
        sender = stack.enter_context(site.sender())
        stalled = stack.enter_context(site.workers(processes=1))
        stack.enter_context(site.workers(processes=1))
        (pid,) = stalled.ready()
        for life in range(2):
            send(site, sender, life, delays=True)
            for _ in range(8 if NIGHTLY else 2):
                pause.wait(0.5)
                os.kill(pid, signal.SIGSTOP)
                pause.wait(2.5)
                os.kill(pid, signal.SIGCONT)
            site.finish(is_complete=False, is_idle=lambda: queue.held() == 0)
            wrong.append(check(site, life, report))
        runs = site.journal.runs().values()
        twice = sum(any(a.ended > b.began for a, b in zip(each, each[1:])) for each in runs)
        report(f"{twice} of {len(runs)} messages were run twice at the same time")
    assert twice > 0
    assert wrong == [{}, {}]


#: By how many seconds the clocks may be off, every how many seconds they jump, and how much time
#: there is between two lives; 0 if there is only one.
SKEWS = [("redis", 1, 0, 2.5), ("rabbitmq", 3600, 2, 0)]
if NIGHTLY:
    SKEWS += [("rabbitmq", 1, 2, 0), ("rabbitmq", 1, 0, 2.5), ("redis", 3600, 2, 0)]
    SKEWS += [("sqs", 0.05, 0, 0.2)]


@pytest.mark.parametrize(("name", "skew", "jumps", "between"), SKEWS)
def test_every_row_is_right_by_wrong_clocks(name, skew, jumps, between, alias, journal, report):
    """Each process has a clock of its own, which may jump now and then."""
    wrong = []
    with contextlib.ExitStack() as stack:
        options, more = {}, {}
        if name == "redis":  # It compares the clocks of workers, to find those that are dead.
            options = {"heartbeat_timeout": 10 * 3600 * 1000}
        if name == "sqs":  # It delays by whole seconds: a backoff of less is none.
            more = {"WORKS_BACKOFF": "2000"}
        env = stack.enter_context(getattr(brokers, name)(None, **options))
        site = Site(
            env,
            alias,
            journal,
            DEMO_TASKSTATE='{"KEEP_MESSAGE": true}',
            PYTHONPATH=str(CLOCKS),
            CLOCK_SKEW=str(skew),
            CLOCK_JUMPS=str(jumps),
            **more,
        )
        sender = stack.enter_context(site.sender())
        stack.enter_context(site.workers(processes=3))
        # A delay ends by the clock of whoever fetches the message: an hour is too long to wait.
        how = {"delays": True} if skew <= 1 else {"delays": False, "retries": False}
        chains = CHAINS if skew <= 1 else 0
        for life in range(2 if between else 1):
            if life:
                threading.Event().wait(between)
            send(site, sender, life, chains=chains, number=3 * NUMBER, **how)
            site.finish()
            wrong.append(check(site, life, report))
    assert not any(wrong)
