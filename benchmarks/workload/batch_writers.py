"""What the flush job compares: this package's stores, and the fastest plain SQL."""

from django.conf import settings
from django.db import connection, transaction

from benchmarks.contenders.limit import copy_rows
from benchmarks.contenders.plain_orm import plain_store
from taskstate.models import Task
from taskstate.stores.orm import OrmStore
from taskstate.stores.rows import make_tasks
from taskstate.stores.upsert import UpsertStore


class StoreWriter:
    """Writes a batch of any size by one call of a store.

    The buffer itself would split a batch of more than 8 MiB.
    """

    can_update = True

    def __init__(self, store):
        self.store = store

    def prepare(self, batch):
        """Return the batch unchanged: encoding is a part of the flush."""
        return batch

    def __call__(self, batch):
        """Write a batch."""
        assert self.store.write(batch).rows == len(batch)


class LimitWriter:
    """Inserts prepared rows in the fastest plain way that the database has."""

    can_update = False

    def prepare(self, batch):
        """Return rows of column values, as the database driver takes them."""
        fields = Task._meta.concrete_fields
        is_text = connection.vendor == "postgresql"
        rows = []
        for task in make_tasks([pending.latest for pending in batch], connection.alias):
            values = [
                field.get_db_prep_save(getattr(task, field.attname), connection) for field in fields
            ]
            if is_text:
                values = [v if v is None or isinstance(v, int) else str(v) for v in values]
            rows.append(tuple(values))
        return rows

    def __call__(self, rows):
        """Write the rows, all or none."""
        names = [field.column for field in Task._meta.concrete_fields]
        if connection.vendor == "postgresql":
            copy_rows(names, rows)
            return
        columns = ", ".join(map(connection.ops.quote_name, names))
        places = ", ".join(["%s"] * len(names))
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.executemany(f"INSERT INTO taskstate_task ({columns}) VALUES ({places})", rows)


def upsert():
    """Return a writer with the upsert store, which makes a ``Task`` of each row if there is a
    listener."""
    listener = settings.BENCHMARK["listener"]
    return StoreWriter(UpsertStore(has_receivers=lambda: listener))


def orm():
    """Return a writer with the ORM store."""
    return StoreWriter(OrmStore())


def plain():
    """Return a writer with a store that uses only ``bulk_create`` and ``bulk_update``."""
    return StoreWriter(plain_store())


#: By contender, a function that returns its writer.
WRITERS = {"limit": LimitWriter, "upsert": upsert, "orm": orm, "plain-orm": plain}
