"""Whole runs: one process sends messages, works them off, and writes what is pending."""

import itertools
from functools import partial

from benchmarks import plots
from benchmarks.contenders import CONTENDERS
from benchmarks.figures import Figure
from benchmarks.rounds import Comparison
from benchmarks.workload import Workload

TITLE = "Whole runs"
FIGURES = (
    Figure("enqueued", "enqueueing", "messages/s", ratios=("untracked",)),
    Figure("processed", "processing", "messages/s", ratios=("untracked",)),
    Figure("both", "both together", "messages/s", ratios=("untracked", "admin")),
    Figure("cpu", "processor time", "µs/message", added_to="untracked"),
    Figure("missing", "rows that are not done", "of 1,000"),
)
PLOTS = (
    plots.Bars("speed", "Messages sent, then worked off", ("enqueued", "processed", "both")),
    plots.Bars("cpu", "Processor time of the process per message", ("cpu",)),
)
CHOICES = {
    "databases": ("sqlite", "postgres", "mariadb"),
    "brokers": ("stub", "redis", "rabbitmq"),
    "contenders": tuple(CONTENDERS),
}
DEFAULTS = {
    "databases": ("postgres",),
    "brokers": ("stub", "redis"),
    "contenders": ("untracked", "upsert", "before-ack", "orm", "plain-orm", "admin", "0.3.4"),
    "messages": (10_000,),
}
TINY = {"contenders": ("untracked", "upsert"), "messages": (100,)}

#: So many messages are worked off before the clock starts: each thread has had some.
WARM_UP_PER_THREAD = 10


def comparisons(options, arena):
    """Yield one per place, duration of the actor and number of messages."""
    for (database, broker), milliseconds, messages in itertools.product(
        places(options), options.durations, options.messages
    ):
        work = Workload(broker, database, milliseconds, options.threads, messages)
        measures = {
            name: partial(run, arena, name, work)
            for name in options.contenders
            if database in CONTENDERS[name].databases
        }
        yield Comparison(work.conditions, measures)


def places(options):
    """Return pairs of a database and a broker: each with each, or each once in a smoke run."""
    databases, brokers = options.databases, options.brokers
    if not options.tiny:
        return list(itertools.product(databases, brokers))
    count = max(len(databases), len(brokers))
    pairs = zip(itertools.cycle(databases), itertools.cycle(brokers))
    return list(itertools.islice(pairs, count))


def run(arena, name, work):
    """Measure one contender once."""
    arena.prepare(name, work.database)
    share, done = work.run(arena, CONTENDERS[name], warm_up=WARM_UP_PER_THREAD * work.threads)
    enqueue, process = done["enqueue_seconds"], done["process_seconds"]
    return {
        "enqueued": share / enqueue,
        "processed": share / process,
        "both": share / (enqueue + process),
        "cpu": done["cpu_seconds"] / share * 1e6,
        "missing": done["missing"] / share * 1000,
    }
