"""The database's work per task, as PostgreSQL counts it, at full load in one process."""

import itertools
from functools import partial

from benchmarks.contenders.registry import CONTENDERS, LIMIT, find
from benchmarks.runner import plots, servers
from benchmarks.runner.figures import Figure
from benchmarks.runner.postgres_counters import PostgresCounters
from benchmarks.runner.rounds import Comparison
from benchmarks.runner.workload import Workload

TITLE = "The database's work"
FIGURES = (
    Figure("statements", "statements", "per task"),
    Figure("commits", "commits", "per task"),
    Figure("wal", "WAL", "bytes/task", ratios=("admin",)),
    Figure("wal_without_pages", "WAL without whole-page images", "bytes/task"),
    Figure("hot", "HOT updates", "%"),
)
PLOTS = (
    plots.Bars("work", "Statements and commits per task", ("statements", "commits"), log=True),
    plots.Bars("wal", "WAL per task after a checkpoint", ("wal", "wal_without_pages")),
)
CHOICES = {
    "databases": ("postgres",),
    "brokers": ("stub", "redis", "rabbitmq"),
    # A COPY is not counted as a statement.
    "contenders": tuple(name for name in CONTENDERS if name != LIMIT),
    "commits": True,
}
DEFAULTS = {
    "databases": ("postgres",),
    "brokers": ("stub", "redis"),
    "contenders": ("untracked", "upsert", "orm", "admin", "0.3.4"),
    "messages": (10_000,),
}
TINY = {
    "brokers": ("stub",),
    "contenders": ("untracked", "upsert", "admin"),
    "messages": (50,),
    "rounds": 1,
}


def comparisons(options, session):
    """Yield one per broker, duration of the actor and number of messages."""
    for broker, milliseconds, messages in itertools.product(
        options.brokers, options.durations, options.messages
    ):
        work = Workload(broker, "postgres", milliseconds, options.threads, messages)
        measures = {name: partial(run, session, name, work) for name in options.contenders}
        yield Comparison(work.conditions, measures)


def run(session, name, work):
    """Measure one contender once.

    It counts for its whole process.  It measures no time, so it needs no warm-up.
    """
    session.prepare(name, "postgres")
    session.run(name, "empty_tables", database="postgres")
    counters = PostgresCounters(servers.url("postgres"), session.database_name(name))
    share, done = work.run(session, find(name), warm_up=0)
    counts = counters.finish()
    without_pages, hot = counts["wal_bytes_without_pages"], counts["hot_share"]
    return {
        "statements": done["statements"] / share,
        "commits": counts["commits"] / share,
        "wal": counts["wal_bytes"] / share,
        "wal_without_pages": None if without_pages is None else without_pages / share,
        "hot": None if hot is None else hot * 100,
    }
