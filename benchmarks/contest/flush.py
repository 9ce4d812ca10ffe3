"""Flushes of one round: batches are made, and then written, which is timed."""

import statistics
import time
import uuid

from django.conf import settings
from django.db import connection, transaction

from benchmarks.contest.tables import Tables

#: Where a table is to be large, it is made so in steps of so many rows.
FILL_STEP = 500_000


def flush(_, *, writer, rows, flushes, table):
    """Write ``flushes`` batches of ``rows`` new rows each, and then update them; return the
    medians of what that took, in microseconds per row."""
    if table:
        fill(table)
    else:
        Tables().empty()
    write = WRITERS[writer]()
    batches = [make_batch(rows) for _ in range(flushes + 1)]
    ready = [write.prepare(batch) for batch in batches]
    write(ready.pop())  # The first one connects, and warms up.
    found = measure(write, ready, rows, "new")
    if write.can_update:
        done = [write.prepare(finished(batch)) for batch in batches[:-1]]
        found.update(measure(write, done, rows, "updated"))
    check(batches, delete=bool(table))
    return found


def check(batches, *, delete):
    """Make sure that all rows are there; with ``delete``, leave the table as it was."""
    from taskstate.models import Task

    written = [entry.winner.message_id for batch in batches for entry in batch]
    for start in range(0, len(written), 500):
        keys = written[start : start + 500]
        tasks = Task.objects.filter(pk__in=keys)
        assert tasks.count() == len(keys)
        if delete:
            tasks.delete()


def measure(write, batches, rows, name):
    """Return what writing the batches took: time and processor time per row."""
    wall, cpu = [], []
    for batch in batches:
        cpu_started, started = time.process_time(), time.perf_counter()
        write(batch)
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - cpu_started)
    per_row = 1e6 / rows
    return {
        name: statistics.median(wall) * per_row,
        # Its clock is too coarse for a single small flush.
        f"{name}_cpu": statistics.mean(cpu) * per_row,
    }


def make_batch(rows):
    """Return entries of new messages, in the order in which they were sent."""
    from taskstate.buffer import Entry
    from taskstate.transitions import MessageFields, Status, Transition, pack_rank

    now = int(time.time() * 1000)
    return [
        Entry(
            Transition(
                rank=pack_rank(Status.ENQUEUED, 1, now + number % 1000),
                attempt=0,
                started_at=None,
                happened_at=time.monotonic() + 60,  # Younger than any clear.
                fields=MessageFields(
                    message_id=str(uuid.uuid4()),
                    enqueued_at=now + number % 1000,
                    user_pk=1,
                    actor_name="work",
                    queue_name="default",
                    description=f"Export of report {number}",
                    model_name="Report",
                    app_name="shop",
                ),
            )
        )
        for number in range(rows)
    ]


def finished(batch):
    """Return the entries that the messages of ``batch`` have when they are done."""
    from taskstate.buffer import Entry
    from taskstate.transitions import Status, pack_rank

    entries = []
    for entry in batch:
        fact = entry.winner
        rank = pack_rank(Status.DONE, 1, fact.time + 2000)
        entries.append(Entry(fact._replace(rank=rank, started_at=fact.time + 1000)))
    return entries


class StoreWriter:
    """Writes a batch through a store at one go, however large; ``Buffer.take`` would give it no
    more than 8 MiB."""

    can_update = True

    def __init__(self, store):
        self.store = store

    def prepare(self, batch):
        """Return the batch as it is: encoding is a part of the flush."""
        return batch

    def __call__(self, batch):
        """Write a batch."""
        assert self.store.write(batch).rows == len(batch)


class LimitWriter:
    """Inserts rows that are ready, by the fastest plain means of the database."""

    can_update = False

    def prepare(self, batch):
        """Return the values of the columns, as the database's driver takes them."""
        from taskstate.models import Task
        from taskstate.stores.rows import task_of

        fields = Task._meta.concrete_fields
        is_text = connection.vendor == "postgresql"
        ready = []
        for entry in batch:
            task = task_of(entry.winner, connection.alias)
            values = [
                field.get_db_prep_save(getattr(task, field.attname), connection) for field in fields
            ]
            if is_text:
                values = [v if v is None or isinstance(v, int) else str(v) for v in values]
            ready.append(tuple(values))
        return ready

    def __call__(self, rows):
        """Write the rows in a transaction of their own."""
        from taskstate.models import Task

        names = [field.column for field in Task._meta.concrete_fields]
        columns = ", ".join(connection.ops.quote_name(name) for name in names)
        with transaction.atomic(), connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                with cursor.copy(f"COPY taskstate_task ({columns}) FROM STDIN") as copy:
                    for row in rows:
                        copy.write_row(row)
                return
            places = ", ".join(["%s"] * len(names))
            cursor.executemany(f"INSERT INTO taskstate_task ({columns}) VALUES ({places})", rows)


def upsert():
    """Return the upsert store, to whose changes somebody listens if that is wanted."""
    from taskstate.stores.upsert import UpsertStore

    listener = settings.TERMS["listener"]
    return StoreWriter(UpsertStore(is_listened=lambda: listener))


def orm():
    """Return the ORM store."""
    from taskstate.stores.orm import OrmStore

    return StoreWriter(OrmStore())


def plain():
    """Return the ORM store in its plainest form."""
    from benchmarks.plain import plain_store

    return StoreWriter(plain_store())


WRITERS = {"limit": LimitWriter, "upsert": upsert, "orm": orm, "plain-orm": plain}


def fill(rows):
    """Fill the table of tasks, unless it is that full already (PostgreSQL)."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM taskstate_task")
        for start in range(cursor.fetchone()[0], rows, FILL_STEP):
            cursor.execute(
                "INSERT INTO taskstate_task SELECT gen_random_uuid(), 'done', 0, 'work', "
                "'default', 'Export of report ' || n, 'Report', 'shop', "
                "now() - n * interval '1 second', now(), now(), now(), 1, 1 "
                "FROM generate_series(%s, %s) AS n",
                [start + 1, min(start + FILL_STEP, rows)],
            )
        cursor.execute("VACUUM ANALYZE taskstate_task")
