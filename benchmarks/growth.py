"""What grows with the messages, the processes and the rate, and what must not."""

import contextlib
import time
from functools import partial

from benchmarks import plots, servers
from benchmarks.contenders import CONTENDERS
from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figure
from benchmarks.postgres import Ledger
from benchmarks.rounds import Comparison
from benchmarks.workload import Workload

TITLE = "Growth"
FIGURES = (
    Figure("memory", "peak memory", "MB", added_to="untracked"),
    Figure("seconds", "time", "s", ratios=("untracked",)),
    Figure("rate", "throughput", "messages/s", ratios=("untracked",)),
    Figure("statements", "statements", "per second"),
    Figure("commits", "commits", "per second"),
)
PLOTS = (
    plots.Lines("memory", "Peak memory of one process", "memory", x="messages"),
    plots.Lines("time", "Time for all messages, one process", "seconds", x="messages", log=True),
    plots.Lines("processes", "Messages worked off by several processes", "rate", x="processes"),
    plots.Lines("processes-commits", "Commits of several processes", "commits", x="processes"),
    plots.Lines("statements", "Statements by load", "statements", x="rate", within="offered"),
    plots.Lines("commits", "Commits by load", "commits", x="rate", within="offered"),
)
CHOICES = {
    "databases": ("postgres",),
    "brokers": ("stub", "redis"),
    "contenders": tuple(CONTENDERS),
}
DEFAULTS = {
    "databases": ("postgres",),
    "brokers": ("stub", "redis"),
    "contenders": ("untracked", "upsert"),
    "messages": (1_000, 10_000, 100_000),
}
TINY = {"contenders": ("upsert",), "messages": (50, 200), "rounds": 1}

PROCESSES = (1, 2, 4, 8, 16)
#: What each number of processes works off: sent while they do.
MESSAGES_OF_PROCESSES = 5_000

#: Offered messages per second; None is as many as are worked off.
RATES = (10, 100, 1_000, None)
RATE_SECONDS = 6
#: More than a process works off in that time.
MOST_MESSAGES = 1_000_000

TINY_PROCESSES = (2,)
TINY_MESSAGES_OF_PROCESSES = 100
TINY_RATES = (20, None)
TINY_RATE_SECONDS = 0.5

#: How long processes may take to boot, and then to work off all messages.
BOOT_SECONDS = 120
LIMIT_SECONDS = 600
POLL_SECONDS = 0.01
WARM_UP = 100


def comparisons(options, arena):
    """Yield one per number of messages, of processes, and offered rate."""
    if "stub" in options.brokers:
        for messages in options.messages:
            measures = _measures(options, arena, by_messages, messages)
            yield Comparison({"broker": "stub", "messages": messages}, measures)
    if "redis" in options.brokers:
        for processes in TINY_PROCESSES if options.tiny else PROCESSES:
            measures = _measures(options, arena, by_processes, processes)
            yield Comparison({"broker": "redis", "processes": processes}, measures)
    if "stub" in options.brokers:
        for rate in TINY_RATES if options.tiny else RATES:
            measures = _measures(options, arena, by_rate, rate)
            offered = f"{rate:,}/s" if rate else "as many as it takes"
            yield Comparison({"broker": "stub", "offered": offered}, measures)


def _measures(options, arena, measure, size):
    return {name: partial(measure, options, arena, name, size) for name in options.contenders}


def by_messages(options, arena, name, messages):
    """Measure one contender's memory and time for so many messages."""
    arena.prepare(name, "postgres")
    work = Workload("stub", "postgres", options.durations[0], options.threads, messages)
    share, done = work.run(arena, CONTENDERS[name], warm_up=WARM_UP)
    seconds = done["enqueue_seconds"] + done["process_seconds"]
    return {
        # One that takes fewer messages says nothing of the memory for all of them.
        "memory": done["peak_bytes"] / 1e6 if share == messages else None,
        "seconds": seconds * messages / share,
        "rate": share / seconds,
    }


def by_rate(options, arena, name, rate):
    """Measure one contender's statements and commits while messages come in at ``rate``."""
    arena.prepare(name, "postgres")
    arena.run(name, "empty", database="postgres")
    ledger = Ledger(servers.url("postgres"), arena.database_name(name))
    done = arena.run(
        name,
        "together",
        database="postgres",
        messages=MOST_MESSAGES,
        threads=options.threads,
        milliseconds=options.durations[0],
        warm_up=0,
        rate=rate,
        seconds=TINY_RATE_SECONDS if options.tiny else RATE_SECONDS,
        sample_seconds=None,
    )
    counts = ledger.close()
    return {
        "rate": done["messages"] / done["seconds"],
        "statements": done["statements"] / done["seconds"],
        "commits": counts["commits"] / done["seconds"],
    }


def by_processes(options, arena, name, processes):
    """Measure how fast so many ``rundramatiq`` processes work off what is sent meanwhile."""
    arena.prepare(name, "postgres")
    arena.run(name, "empty", database="postgres")
    messages = TINY_MESSAGES_OF_PROCESSES if options.tiny else MESSAGES_OF_PROCESSES
    share = CONTENDERS[name].share(messages)
    place = {"database": "postgres", "broker": "redis"}
    ledger = Ledger(servers.url("postgres"), arena.database_name(name))
    with contextlib.closing(servers.redis_client()) as client:
        # Whoever asks for messages is listed here; earlier rounds' processes still are.
        heartbeats = f"{arena.namespace}:__heartbeats__"
        client.delete(heartbeats)
        with arena.workers(name, processes=processes, threads=options.threads, **place):
            _wait(
                lambda: client.zcard(heartbeats) >= processes,
                BOOT_SECONDS,
                f"{processes} worker processes have not booted",
            )
            milliseconds = options.durations[0]
            sender = arena.start(name, "send", messages=share, milliseconds=milliseconds, **place)
            ended = _wait_for_all(sender, client, f"{arena.namespace}:{arena.queue}.msgs")
            started = arena.result(sender)["started"]
    counts = ledger.close()
    seconds = ended - started
    return {"rate": share / seconds, "commits": counts["commits"] / seconds}


def _wait_for_all(sender, client, unacknowledged):
    """Wait until all is sent and acknowledged; return when that was, in seconds since 1970."""
    ended = time.time()

    def is_over():
        nonlocal ended
        if client.hlen(unacknowledged):
            ended = time.time()
            return False
        # The process needs a moment to end, which is not the workers'.
        return sender.poll() is not None

    try:
        _wait(is_over, LIMIT_SECONDS, "The messages have not been worked off")
    except BenchmarkError:
        sender.kill()
        raise
    return ended


def _wait(condition, limit, complaint):
    """Wait for what happens in other processes."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise BenchmarkError(
                f"{complaint} within {limit} seconds. Try a machine that has less else to do."
            )
        time.sleep(POLL_SECONDS)
