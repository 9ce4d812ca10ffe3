"""The stores, and what makes a database reject their rows."""

from django.db import connections

from taskstate.stores.orm import OrmStore
from taskstate.stores.upsert import UpsertStore

STORES = [OrmStore, UpsertStore]


class trigger:
    """Forbid the name of an app, by a trigger, in each database's own words."""

    CREATE = {
        "sqlite": [
            f"CREATE TRIGGER forbid_{event} BEFORE {event} ON taskstate_task "
            "WHEN NEW.app_name = 'forbidden' BEGIN SELECT RAISE(ABORT, 'forbidden'); END"
            for event in ("INSERT", "UPDATE")
        ],
        "postgresql": [
            "CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "IF NEW.app_name = 'forbidden' THEN RAISE EXCEPTION 'forbidden'; END IF; "
            "RETURN NEW; END $$",
            "CREATE TRIGGER forbid BEFORE INSERT OR UPDATE ON taskstate_task "
            "FOR EACH ROW EXECUTE FUNCTION forbid()",
        ],
        "mysql": [
            f"CREATE TRIGGER forbid_{event} BEFORE {event} ON taskstate_task FOR EACH ROW "
            "BEGIN IF NEW.app_name = 'forbidden' THEN "
            "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'forbidden'; END IF; END"
            for event in ("INSERT", "UPDATE")
        ],
    }
    DROP = {
        "postgresql": ["DROP TRIGGER forbid ON taskstate_task", "DROP FUNCTION forbid()"],
    }
    DROP_BOTH = ["DROP TRIGGER forbid_INSERT", "DROP TRIGGER forbid_UPDATE"]
    DROP_ROW = {
        "sqlite": [
            sql.replace("RAISE(ABORT, 'forbidden')", "RAISE(IGNORE)") for sql in CREATE["sqlite"]
        ],
        "postgresql": [
            sql.replace("RAISE EXCEPTION 'forbidden'", "RETURN NULL")
            for sql in CREATE["postgresql"]
        ],
    }

    def __init__(self, alias, create=CREATE):
        self.connection = connections[alias]
        self.create = create

    def __enter__(self):
        self._execute(self.create[self.connection.vendor])

    def __exit__(self, *error):
        self._execute(self.DROP.get(self.connection.vendor, self.DROP_BOTH))

    def _execute(self, statements):
        with self.connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


class constraint:
    """Forbid the name of an app, by a CHECK of the table."""

    CHECK = "CONSTRAINT forbid CHECK (app_name <> 'forbidden')"

    def __init__(self, alias):
        self.connection = connections[alias]
        self.renamed = renamed_table(alias)

    def __enter__(self):
        with self.connection.cursor() as cursor:
            if self.connection.vendor != "sqlite":
                cursor.execute(f"ALTER TABLE taskstate_task ADD {self.CHECK}")
                return
            # It can't add one: for a while, another table takes the place of this one.
            cursor.execute("SELECT sql FROM sqlite_master WHERE name = 'taskstate_task'")
            (create,) = cursor.fetchone()
            self.renamed.__enter__()
            cursor.execute(f"{create[:-1]}, {self.CHECK})")

    def __exit__(self, *error):
        with self.connection.cursor() as cursor:
            if self.connection.vendor != "sqlite":
                cursor.execute("ALTER TABLE taskstate_task DROP CONSTRAINT forbid")
                return
            cursor.execute("DROP TABLE taskstate_task")
            self.renamed.__exit__()


class renamed_table:
    def __init__(self, alias):
        self.connection = connections[alias]

    def __enter__(self):
        with self.connection.cursor() as cursor:
            cursor.execute("ALTER TABLE taskstate_task RENAME TO moved")

    def __exit__(self, *error):
        with self.connection.cursor() as cursor:
            cursor.execute("ALTER TABLE moved RENAME TO taskstate_task")
