"""A store that uses only ``bulk_create`` and ``bulk_update``, to show what the package's stores
save."""

from taskstate.middleware import StateMiddleware


class PlainStateMiddleware(StateMiddleware):
    """``StateMiddleware`` that updates rows by ``bulk_update``."""

    def _open_store(self):
        return plain_store()


def plain_store():
    """Return the ORM store with a plain ``bulk_update`` for updates."""
    # Imported here because the middleware is created before models can be imported.
    from taskstate.models import Task
    from taskstate.stores.orm import OrmStore

    class PlainStore(OrmStore):
        def _update(self, connection, tasks, rows):
            fields = ["status", "attempt", "started_at", "finished_at", "updated_at"]
            fields += ["stamp", "rank"]
            if tasks:
                Task._base_manager.using(connection.alias).bulk_update(tasks, fields)

    return PlainStore()
