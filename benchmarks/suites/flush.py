"""Flushes: the time per row of writing a batch, compared with the fastest plain SQL."""

from functools import partial

from benchmarks.contenders.registry import LIMIT
from benchmarks.errors import BenchmarkError
from benchmarks.runner import plots
from benchmarks.runner.figures import Figure
from benchmarks.runner.rounds import Comparison

TITLE = "Flushes"
# The contender ``LIMIT`` inserts prepared rows: by COPY on PostgreSQL, by executemany on SQLite and
# on MariaDB, where it becomes an INSERT of many rows.
FIGURES = (
    Figure("new", "new rows", "µs/row", ratios=(LIMIT,)),
    Figure("new_cpu", "client processor time, new rows", "µs/row"),
    Figure("updated", "updates", "µs/row", ratios=("orm",)),
    Figure("updated_cpu", "client processor time, updates", "µs/row"),
)
PLOTS = (
    plots.Lines("new", "New rows in one flush", "new", x="rows", log=True, panels="database"),
    plots.Lines(
        "updates", "Updates in one flush", "updated", x="rows", log=True, panels="database"
    ),
)
CHOICES = {
    "databases": ("sqlite", "postgres", "mariadb"),
    "contenders": (LIMIT, "upsert", "orm", "plain-orm"),
}
DEFAULTS = {
    "databases": ("postgres", "sqlite", "mariadb"),
    "contenders": (LIMIT, "upsert", "orm", "plain-orm"),
    "messages": (10, 100, 1_000, 10_000),
}
TINY = {"messages": (10, 100)}

#: The number of rows in each measurement; it takes at least two and at most 200 flushes.
ROWS = 4_000
TINY_ROWS = 200
MAX_FLUSHES = 200
#: The largest flush of `plain-orm`: with more rows a round would take minutes.
MAX_PLAIN_ROWS = 1_000

#: All measurements use the tables and settings of this contender.
CONTENDER = "upsert"


def comparisons(options, session):
    """Yield one per database and number of rows in a flush."""
    if options.table and options.databases != ("postgres",):
        raise BenchmarkError("flush: --table works only with --database postgres.")
    for database in options.databases:
        for rows in options.messages:
            conditions = {"database": database, "rows": rows}
            if options.table:
                conditions["rows before"] = options.table
            measures = {
                name: partial(run, options, session, name, database, rows)
                for name in options.contenders
                if name != "plain-orm" or rows <= MAX_PLAIN_ROWS
            }
            yield Comparison(conditions, measures)


def run(options, session, name, database, rows):
    """Measure one contender once."""
    session.prepare(CONTENDER, database)
    total = TINY_ROWS if options.tiny else ROWS
    return session.run(
        CONTENDER,
        "flush",
        database=database,
        writer=name,
        rows=rows,
        flushes=max(2, min(total // rows, MAX_FLUSHES)),
        table=options.table,
    )
