"""What a task costs the database, at full load in one process: counted by PostgreSQL."""

import itertools
from functools import partial

from benchmarks import plots, servers
from benchmarks.contenders import CONTENDERS
from benchmarks.figures import Figure
from benchmarks.postgres import Ledger
from benchmarks.rounds import Comparison
from benchmarks.workload import Workload

TITLE = "The database's share"
FIGURES = (
    Figure("statements", "statements", "per task"),
    Figure("commits", "commits", "per task"),
    Figure("wal", "WAL", "bytes/task", ratios=("admin",)),
    Figure("wal_without_pages", "WAL without images of whole pages", "bytes/task"),
    Figure("hot", "updates that stay in their page (HOT)", "%"),
)
PLOTS = (
    plots.Bars("work", "Statements and commits per task", ("statements", "commits"), log=True),
    plots.Bars("wal", "WAL per task, from a checkpoint on", ("wal", "wal_without_pages")),
)
CHOICES = {
    "databases": ("postgres",),
    "brokers": ("stub", "redis", "rabbitmq"),
    "contenders": tuple(CONTENDERS),
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


def comparisons(options, arena):
    """Yield one per broker, duration of the actor and number of messages."""
    for broker, milliseconds, messages in itertools.product(
        options.brokers, options.durations, options.messages
    ):
        work = Workload(broker, "postgres", milliseconds, options.threads, messages)
        measures = {name: partial(run, arena, name, work) for name in options.contenders}
        yield Comparison(work.conditions, measures)


def run(arena, name, work):
    """Measure one contender once: its whole process, since nobody reads a clock here."""
    arena.prepare(name, "postgres")
    arena.run(name, "empty", database="postgres")
    ledger = Ledger(servers.url("postgres"), arena.database_name(name))
    share, done = work.run(arena, CONTENDERS[name], warm_up=0)
    counts = ledger.close()
    without_pages, hot = counts["wal_bytes_without_pages"], counts["hot_share"]
    return {
        "statements": done["statements"] / share,
        "commits": counts["commits"] / share,
        "wal": counts["wal_bytes"] / share,
        "wal_without_pages": None if without_pages is None else without_pages / share,
        "hot": None if hot is None else hot * 100,
    }
