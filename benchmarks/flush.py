"""Flushes: what writing a batch costs per row, beside the fastest way into the same table."""

from functools import partial

from benchmarks import plots
from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figure
from benchmarks.rounds import Comparison

TITLE = "Flushes"
#: The limit: COPY on PostgreSQL, executemany on SQLite and MariaDB (where it becomes an INSERT of
#: many rows), of rows that are ready and new.
LIMIT = "limit"
FIGURES = (
    Figure("new", "new rows", "µs/row", ratios=(LIMIT,)),
    Figure("new_cpu", "processor time of the client, new rows", "µs/row"),
    Figure("updated", "updates", "µs/row", ratios=("orm",)),
    Figure("updated_cpu", "processor time of the client, updates", "µs/row"),
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

#: So many rows are written in each measurement, in as many flushes as that takes, and two at least.
ROWS = 4_000
TINY_ROWS = 200
#: `plain-orm` takes part up to so many: beyond, a round would take minutes.
MOST_PLAIN_ROWS = 1_000

#: Whose tables and settings the contenders use: all of them the same.
HOST = "upsert"


def comparisons(options, arena):
    """Yield one per database and number of rows in a flush."""
    if options.table and options.databases != ("postgres",):
        raise BenchmarkError("flush: --table works with --database postgres alone.")
    for database in options.databases:
        for rows in options.messages:
            conditions = {"database": database, "rows": rows}
            if options.table:
                conditions["rows before"] = options.table
            measures = {
                name: partial(run, options, arena, name, database, rows)
                for name in options.contenders
                if name != "plain-orm" or rows <= MOST_PLAIN_ROWS
            }
            yield Comparison(conditions, measures)


def run(options, arena, name, database, rows):
    """Measure one contender once."""
    arena.prepare(HOST, database)
    total = TINY_ROWS if options.tiny else ROWS
    return arena.run(
        HOST,
        "flush",
        database=database,
        writer=name,
        rows=rows,
        flushes=max(2, min(total // rows, 200)),
        table=options.table,
    )
