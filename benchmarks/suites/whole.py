"""Whole runs: one process sends messages, processes them, and writes all transitions."""

import itertools
from functools import partial

from benchmarks.contenders.registry import CONTENDERS, find
from benchmarks.errors import BenchmarkError
from benchmarks.runner import plots
from benchmarks.runner.figures import Figure
from benchmarks.runner.rounds import Comparison
from benchmarks.runner.workload import Workload

TITLE = "Whole runs"
FIGURES = (
    Figure("enqueued", "enqueueing", "messages/s", ratios=("untracked",)),
    Figure("processed", "processing", "messages/s", ratios=("untracked",)),
    Figure("both", "both together", "messages/s", ratios=("untracked", "limit", "admin")),
    Figure("process", "time per processed message", "µs/message", added_to="untracked"),
    Figure("cpu", "processor time", "µs/message", added_to="untracked"),
    Figure("writer", "processor time of the thread that writes", "µs/message"),
    Figure("switches", "voluntary context switches", "per message", added_to="untracked"),
    Figure("send", "a send(), alone", "µs", ratios=("untracked",), added_to="untracked"),
    Figure("send_thread", "a send(), alone: its processor time", "µs", added_to="untracked"),
    Figure("send_cpu", "a send(), alone: processor time with writing", "µs", added_to="untracked"),
    Figure("missing", "rows without the status done", "of 1,000"),
)
PLOTS = (
    plots.Bars("speed", "Messages sent, then processed", ("enqueued", "processed", "both")),
    plots.Bars("cpu", "Processor time of the process per message", ("cpu",)),
    plots.Bars("send", "Sending alone: time of a send()", ("send", "send_thread", "send_cpu")),
)
CHOICES = {
    "databases": ("sqlite", "postgres", "mariadb"),
    "brokers": ("stub", "redis", "rabbitmq"),
    "contenders": tuple(CONTENDERS),
    "commits": True,
}
DEFAULTS = {
    "databases": ("postgres",),
    "brokers": ("stub", "redis"),
    "contenders": (
        "untracked",
        "limit",
        "upsert",
        "before-ack",
        "orm",
        "plain-orm",
        "admin",
        "0.3.4",
    ),
    "messages": (10_000,),
}
TINY = {"contenders": ("untracked", "upsert"), "messages": (100,)}

#: How many messages are processed before the measurement, so that each thread has had some.
WARM_UP_PER_THREAD = 10


def comparisons(options, session):
    """Yield one per database, broker, delay of the database, duration of the actor and number of
    messages."""
    if "sqlite" in options.databases and any(options.database_delays):
        raise BenchmarkError(
            "whole: --database-delay delays a server. Choose one with --database postgres,mariadb."
        )
    for (database, broker), delay, milliseconds, messages in itertools.product(
        pairs(options), options.database_delays, options.durations, options.messages
    ):
        work = Workload(broker, database, milliseconds, options.threads, messages, delay)
        measures = {
            name: partial(run, session, name, work)
            for name in options.contenders
            if database in find(name).databases
        }
        yield Comparison(work.conditions, measures)


def pairs(options):
    """Return pairs of a database and a broker: all pairs, or each of them once in a smoke run."""
    databases, brokers = options.databases, options.brokers
    if not options.tiny:
        return list(itertools.product(databases, brokers))
    count = max(len(databases), len(brokers))
    endless = zip(itertools.cycle(databases), itertools.cycle(brokers))
    return list(itertools.islice(endless, count))


def run(session, name, work):
    """Measure one contender once."""
    session.prepare(name, work.database)
    share, done = work.run(
        session, find(name), warm_up=WARM_UP_PER_THREAD * work.threads, send_alone=True
    )
    enqueue, process = done["enqueue_seconds"], done["process_seconds"]
    return {
        "enqueued": share / enqueue,
        "processed": share / process,
        "both": share / (enqueue + process),
        "process": process / share * 1e6,
        "cpu": done["cpu_seconds"] / share * 1e6,
        "writer": done["writer_seconds"] / share * 1e6 or None,
        "switches": done["switches"] / share,
        "send": done["send_seconds"] / share * 1e6,
        "send_thread": done["send_thread_seconds"] / share * 1e6,
        "send_cpu": done["send_cpu_seconds"] / share * 1e6,
        "missing": done["missing"] / share * 1000,
    }
