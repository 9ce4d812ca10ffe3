"""The jobs of the suite ``scale``: many connections write at a fixed rate."""

import random
import statistics
import threading
import time

from django.db import connection

from benchmarks.workload import tables
from benchmarks.workload.batches import make_batch, make_done
from benchmarks.workload.processor_time import processor_seconds
from taskstate.stores.upsert import UpsertStore

#: As with this package's defaults: a connection writes this often, in seconds.
INTERVAL = 0.5
#: The table of each layout is in a schema of its own; that of migrations is in this one.
SCHEMAS = {"table": "public", "partitions": "partitioned"}
PARTITIONS = 16
#: Of each partition, as migration 0001 sets it for the table.
FILLFACTOR = 50


def make_table(*, layout, rows):
    """Create the table of a layout with this number of rows, unless it has them already."""
    with connection.cursor() as cursor:
        if layout == "partitions":
            cursor.execute("SELECT to_regclass('partitioned.taskstate_task')")
            if cursor.fetchone()[0] is None:
                _create_partitions(cursor)
        _use(cursor, layout)
    tables.fill(rows)


def _create_partitions(cursor):
    cursor.execute("CREATE SCHEMA partitioned")
    cursor.execute(
        "CREATE TABLE partitioned.taskstate_task (LIKE public.taskstate_task INCLUDING ALL) "
        "PARTITION BY HASH (message_id)"
    )
    for number in range(PARTITIONS):
        cursor.execute(
            f"CREATE TABLE partitioned.taskstate_task_{number} "
            "PARTITION OF partitioned.taskstate_task "
            f"FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {number}) "
            f"WITH (fillfactor = {FILLFACTOR})"
        )


def _use(cursor, layout):
    """Let this connection find the table of a layout."""
    cursor.execute("SELECT set_config('search_path', %s, false)", [f"{SCHEMAS[layout]}, public"])


def bytes_per_row(*, layout):
    """Return the size of the table of a layout with its indexes, in bytes per row."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c "
            "JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = %s AND c.relname LIKE 'taskstate\\_task%%' "
            "AND c.relkind IN ('r', 'p')",
            [SCHEMAS[layout]],
        )
        (size,) = cursor.fetchone()
        cursor.execute(f"SELECT count(*) FROM {SCHEMAS[layout]}.taskstate_task")
        return float(size) / cursor.fetchone()[0]


def write_at_a_rate(*, layout, connections, rate, seconds):
    """Write messages over several connections, and return the figures of all of them.

    Parameters:
      layout(str): A key of ``SCHEMAS``.
      connections(int): How many threads write, each over a connection of its own.
      rate(float): How many messages per second all of them write.  Each is written twice.
      seconds(float): For how long.
    """
    rows = round(rate * INTERVAL / connections)
    if not rows:
        raise ValueError(f"{rate:g} messages per second are too few for {connections} connections.")
    barrier = threading.Barrier(connections)
    threads = [_Connection(layout, rows, seconds, barrier) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = [thread.error for thread in threads if thread.error is not None]
    # A thread that fails breaks the barrier of the others; its own error says why.
    errors.sort(key=lambda error: isinstance(error, threading.BrokenBarrierError))
    if errors:
        raise errors[0]
    flushes = sorted(flush for thread in threads for flush in thread.flushes)
    return {
        "messages": rows * len(flushes) / 2,
        "seconds": max(thread.seconds for thread in threads),
        "flush": statistics.median(flushes) * 1e3,
        "slow_flush": flushes[int(len(flushes) * 0.99)] * 1e3,
        "server_seconds": sum(thread.server_seconds for thread in threads),
    }


class _Connection(threading.Thread):
    """Writes a batch of new rows and a batch of updates per interval."""

    def __init__(self, layout, rows, seconds, barrier):
        super().__init__(daemon=True)
        self.layout, self.rows, self.limit, self.barrier = layout, rows, seconds, barrier
        self.store = UpsertStore(has_receivers=lambda: False)
        self.flushes = []
        self.error = None

    def run(self):
        try:
            with connection.cursor() as cursor:
                _use(cursor, self.layout)
                cursor.execute("SELECT pg_backend_pid()")
                (pid,) = cursor.fetchone()
            self.store.write(make_batch(1))  # The server reads its catalogs once per connection.
            self.barrier.wait()
            before = processor_seconds([pid])
            self._write()
            self.server_seconds = processor_seconds([pid]) - before
        except Exception as error:  # noqa: BLE001 - the job raises it
            self.barrier.abort()
            self.error = error
        finally:
            connection.close()

    def _write(self):
        before = []
        started = time.perf_counter()
        # Processes do not flush at the same moments.
        due = started + random.uniform(0, INTERVAL)
        while due < started + self.limit:
            batch = make_batch(self.rows)
            done = make_done(before)
            time.sleep(max(0.0, due - time.perf_counter()))
            self._flush(batch)
            if done:
                self._flush(done)
            before = batch
            due += INTERVAL
        self._flush(make_done(before))
        self.seconds = max(self.limit, time.perf_counter() - started)

    def _flush(self, batch):
        started = time.perf_counter()
        written = self.store.write(batch).rows
        self.flushes.append(time.perf_counter() - started)
        if written != len(batch):
            raise RuntimeError(f"{written:,} of {len(batch):,} rows were written.")
