"""What grows with the number of messages, the number of processes, and the rate."""

import contextlib
import time
from functools import partial

from benchmarks.contenders.registry import CONTENDERS, LIMIT, find
from benchmarks.errors import BenchmarkError
from benchmarks.runner import plots, servers
from benchmarks.runner.figures import Figure
from benchmarks.runner.postgres_counters import PostgresCounters
from benchmarks.runner.rounds import Comparison
from benchmarks.runner.workload import Workload

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
    plots.Lines("processes", "Messages processed by several processes", "rate", x="processes"),
    plots.Lines("processes-commits", "Commits of several processes", "commits", x="processes"),
    plots.Lines("statements", "Statements by load", "statements", x="rate", within="offered"),
    plots.Lines("commits", "Commits by load", "commits", x="rate", within="offered"),
)
CHOICES = {
    "databases": ("postgres",),
    "brokers": ("stub", "redis"),
    # A COPY is not counted as a statement.
    "contenders": tuple(name for name in CONTENDERS if name != LIMIT),
    "commits": True,
}
DEFAULTS = {
    "databases": ("postgres",),
    "brokers": ("stub", "redis"),
    "contenders": ("untracked", "upsert"),
    "messages": (1_000, 10_000, 100_000),
}
TINY = {"contenders": ("upsert",), "messages": (50, 200), "rounds": 1}

PROCESSES = (1, 2, 4, 8, 16)
#: The messages for each number of processes; they are sent while the processes run.
MESSAGES_OF_PROCESSES = 5_000

#: Messages per second, or None for as many as are processed.
RATES = (10, 100, 1_000, None)
RATE_SECONDS = 6
#: More than a process can process in that time.
MAX_MESSAGES = 1_000_000

TINY_PROCESSES = (2,)
TINY_MESSAGES_OF_PROCESSES = 100
TINY_RATES = (20, None)
TINY_RATE_SECONDS = 0.5

#: The time limits for processes to start, and then to process all messages.
BOOT_SECONDS = 120
LIMIT_SECONDS = 600
POLL_SECONDS = 0.01
WARM_UP = 100


def comparisons(options, session):
    """Yield one per number of messages, per number of processes, and per rate."""
    if "stub" in options.brokers:
        for messages in options.messages:
            measures = _measures(options, session, by_messages, messages)
            yield Comparison({"broker": "stub", "messages": messages}, measures)
    if "redis" in options.brokers:
        for processes in TINY_PROCESSES if options.tiny else PROCESSES:
            measures = _measures(options, session, by_processes, processes)
            yield Comparison({"broker": "redis", "processes": processes}, measures)
    if "stub" in options.brokers:
        for rate in TINY_RATES if options.tiny else RATES:
            measures = _measures(options, session, by_rate, rate)
            offered = f"{rate:,}/s" if rate else "as many as are processed"
            yield Comparison({"broker": "stub", "offered": offered}, measures)


def _measures(options, session, measure, size):
    return {name: partial(measure, options, session, name, size) for name in options.contenders}


def by_messages(options, session, name, messages):
    """Measure the memory and the time of a contender for a number of messages."""
    session.prepare(name, "postgres")
    work = Workload("stub", "postgres", options.durations[0], options.threads, messages)
    share, done = work.run(session, find(name), warm_up=WARM_UP)
    seconds = done["enqueue_seconds"] + done["process_seconds"]
    return {
        # Unknown for a contender that processes only a share of the messages.
        "memory": done["peak_bytes"] / 1e6 if share == messages else None,
        "seconds": seconds * messages / share,
        "rate": share / seconds,
    }


def by_rate(options, session, name, rate):
    """Measure the statements and commits of a contender at a rate."""
    session.prepare(name, "postgres")
    session.run(name, "empty_tables", database="postgres")
    counters = PostgresCounters(servers.url("postgres"), session.database_name(name))
    done = session.run(
        name,
        "send_and_process",
        database="postgres",
        messages=MAX_MESSAGES,
        threads=options.threads,
        milliseconds=options.durations[0],
        warm_up=0,
        rate=rate,
        seconds=TINY_RATE_SECONDS if options.tiny else RATE_SECONDS,
        sample_seconds=None,
    )
    counts = counters.finish()
    return {
        "rate": done["messages"] / done["seconds"],
        "statements": done["statements"] / done["seconds"],
        "commits": counts["commits"] / done["seconds"],
    }


def by_processes(options, session, name, processes):
    """Measure the throughput of a number of ``rundramatiq`` processes."""
    session.prepare(name, "postgres")
    session.run(name, "empty_tables", database="postgres")
    messages = TINY_MESSAGES_OF_PROCESSES if options.tiny else MESSAGES_OF_PROCESSES
    share = find(name).share(messages)
    where = {"database": "postgres", "broker": "redis"}
    counters = PostgresCounters(servers.url("postgres"), session.database_name(name))
    with contextlib.closing(servers.redis_client()) as client:
        # Lists all consumers, those of earlier rounds included.
        heartbeats = f"{session.namespace}:__heartbeats__"
        client.delete(heartbeats)
        with session.workers(name, processes=processes, threads=options.threads, **where):
            _wait(
                lambda: client.zcard(heartbeats) >= processes,
                BOOT_SECONDS,
                f"{processes} worker processes did not start",
            )
            milliseconds = options.durations[0]
            sender = session.start(name, "send", messages=share, milliseconds=milliseconds, **where)
            ended = _wait_for_all(sender, client, f"{session.namespace}:{session.queue}.msgs")
            started = session.result(sender)["started"]
    counts = counters.finish()
    seconds = ended - started
    return {"rate": share / seconds, "commits": counts["commits"] / seconds}


def _wait_for_all(sender, client, unacknowledged):
    """Wait until all messages are sent and acknowledged; return the time of the last
    acknowledgment."""
    ended = time.time()

    def is_over():
        nonlocal ended
        if client.hlen(unacknowledged):
            ended = time.time()
            return False
        # The sender's own end takes time too, which does not count.
        return sender.poll() is not None

    try:
        _wait(is_over, LIMIT_SECONDS, "The messages were not processed")
    except BenchmarkError:
        sender.kill()
        raise
    return ended


def _wait(condition, limit, complaint):
    """Wait until other processes have fulfilled a condition."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise BenchmarkError(
                f"{complaint} within {limit} seconds. Run the benchmark on an idle machine."
            )
        time.sleep(POLL_SECONDS)
