"""The flush job: it prepares batches, and times how long it takes to write them."""

import statistics
import time

from benchmarks.workload import tables
from benchmarks.workload.batch_writers import WRITERS
from benchmarks.workload.batches import make_batch, make_done
from taskstate.models import Task

#: How many rows are checked per query.
CHECK_STEP = 500


def flush(*, writer, rows, flushes, table):
    """Write batches of new rows, then update these rows; return the median time in microseconds per
    row.

    Parameters:
      writer(str): A key of ``WRITERS``.
      rows(int): The number of rows per batch.
      flushes(int): The number of batches.
      table(int): The number of rows in the table before, or 0 for an empty table.
    """
    if table:
        tables.fill(table)
    else:
        tables.empty()
    write = WRITERS[writer]()
    batches = [make_batch(rows) for _ in range(flushes + 1)]
    prepared = [write.prepare(batch) for batch in batches]
    write(prepared.pop())  # Opens the connection, and warms up.
    figures = measure(write, prepared, rows, "new")
    if write.can_update:
        done = [write.prepare(make_done(batch)) for batch in batches[:-1]]
        figures.update(measure(write, done, rows, "updated"))
    check(batches, delete=bool(table))
    return figures


def measure(write, batches, rows, name):
    """Return the time and the processor time per row of writing the batches."""
    wall, cpu = [], []
    for batch in batches:
        cpu_started, started = time.process_time(), time.perf_counter()
        write(batch)
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - cpu_started)
    per_row = 1e6 / rows
    return {
        name: statistics.median(wall) * per_row,
        # The mean, because this clock is too coarse for a single small flush.
        f"{name}_cpu": statistics.mean(cpu) * per_row,
    }


def check(batches, *, delete):
    """Check that all rows exist; with ``delete``, delete them."""
    written = [task.latest.message_id for batch in batches for task in batch]
    for start in range(0, len(written), CHECK_STEP):
        keys = written[start : start + CHECK_STEP]
        rows = Task.objects.filter(pk__in=keys)
        assert rows.count() == len(keys)
        if delete:
            rows.delete()
