"""The ORM store in its plainest form, to show what the package's own saves."""

from taskstate.middleware import StateMiddleware


class PlainStateMiddleware(StateMiddleware):
    """``StateMiddleware`` whose rows are updated by ``bulk_update``, as before Django 4.1."""

    def _open_store(self):
        return plain_store()


def plain_store():
    """Return a store that inserts with ``bulk_create`` and updates with ``bulk_update``."""
    # Here, because the middleware is made before models can be imported.
    from taskstate.models import Task
    from taskstate.stores.orm import OrmStore

    class PlainStore(OrmStore):
        def _update(self, connection, tasks, rows):
            fields = ["status", "attempt", "started_at", "finished_at", "updated_at", "rank"]
            if tasks:
                Task._base_manager.using(connection.alias).bulk_update(tasks, fields)

    return PlainStore()
