"""Scale: what many worker processes ask of one PostgreSQL, and whether partitions help.

Many connections write at a fixed rate, one for each process.  Each message is written twice: when
it is enqueued, and when it is done.
"""

from functools import partial

from benchmarks.runner import plots, servers
from benchmarks.runner.figures import Figure
from benchmarks.runner.postgres_counters import PostgresCounters
from benchmarks.runner.rounds import Comparison
from benchmarks.workload.processor_time import processor_seconds

TITLE = "Scale"
FIGURES = (
    Figure("rate", "messages written", "messages/s"),
    Figure("commits", "commits, with those of connecting", "per second"),
    Figure("flush", "a flush, median", "ms"),
    Figure("slow_flush", "a flush, 99 of 100, in the slowest process", "ms"),
    Figure("server", "the server's processor time", "µs/message"),
    Figure("background", "that of its background processes", "µs/message"),
    Figure("wal", "WAL", "bytes/message"),
    Figure("wal_without_pages", "WAL without whole-page images", "bytes/message"),
    Figure("hot", "HOT updates", "%"),
    Figure("size", "table and indexes", "bytes/row"),
)
PLOTS = (
    plots.Bars("server", "Processor time of PostgreSQL per message", ("server", "background")),
)
CHOICES = {
    "databases": ("postgres",),
    #: One table, and a table of hash partitions by the primary key.
    "contenders": ("table", "partitions"),
}
DEFAULTS = {
    "databases": ("postgres",),
    "contenders": ("table", "partitions"),
    # Per second.
    "messages": (1_000, 10_000),
    "rounds": 3,
}
TINY = {"messages": (100,), "rounds": 1}

#: The connections: one for each worker process.
CONNECTIONS = 100
#: How many processes share them, so that they do not wait for the interpreter's lock of one.
PROCESSES = 4
SECONDS = 20

TINY_CONNECTIONS = 4
TINY_SECONDS = 1

#: All measurements use the tables and settings of this contender.
CONTENDER = "upsert"


def comparisons(options, session):
    """Yield one per number of messages per second."""
    connections = TINY_CONNECTIONS if options.tiny else CONNECTIONS
    for messages in options.messages:
        conditions = {"messages per second": messages, "connections": connections}
        if options.table:
            conditions["rows before"] = options.table
        measures = {
            layout: partial(run, options, session, layout, messages, connections)
            for layout in options.contenders
        }
        yield Comparison(conditions, measures)


def run(options, session, layout, messages, connections):
    """Write to one layout of the table for some seconds."""
    session.prepare(CONTENDER, "postgres")
    session.run(CONTENDER, "make_table", database="postgres", layout=layout, rows=options.table)
    url, database = servers.url("postgres"), session.database_name(CONTENDER)
    counters = PostgresCounters(url, database)
    own = servers.postgres_processes(url)
    background = processor_seconds(own)
    processes = [
        session.start(
            CONTENDER,
            "write_at_a_rate",
            database="postgres",
            layout=layout,
            connections=connections // PROCESSES,
            rate=messages / PROCESSES,
            seconds=TINY_SECONDS if options.tiny else SECONDS,
        )
        for _ in range(PROCESSES)
    ]
    done = [session.result(process) for process in processes]
    counts = counters.finish()
    written = sum(one["messages"] for one in done)
    without_pages, hot = counts["wal_bytes_without_pages"], counts["hot_share"]
    return {
        "rate": sum(one["messages"] / one["seconds"] for one in done),
        "commits": counts["commits"] / max(one["seconds"] for one in done),
        "flush": sum(one["flush"] for one in done) / PROCESSES,
        "slow_flush": max(one["slow_flush"] for one in done),
        # None if the server runs on another machine.
        "server": sum(one["server_seconds"] for one in done) / written * 1e6 or None,
        "background": (processor_seconds(own) - background) / written * 1e6 or None,
        "wal": counts["wal_bytes"] / written,
        "wal_without_pages": None if without_pages is None else without_pages / written,
        "hot": None if hot is None else hot * 100,
        "size": session.run(CONTENDER, "bytes_per_row", database="postgres", layout=layout),
    }
