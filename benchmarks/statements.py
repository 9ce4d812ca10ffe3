"""Counts SQL statements."""

import threading


class StatementCounter:
    """Counts the SQL statements that connections execute.

    Statements that begin or end a transaction are not counted: only some of Django's backends
    execute them as statements.
    """

    def __init__(self):
        self.count = 0
        self._lock = threading.Lock()

    def put_on(self, connection):
        """Count the statements of this connection from now on."""
        if self not in connection.execute_wrappers:
            connection.execute_wrappers.append(self)

    def __call__(self, execute, sql, params, many, context):
        """Count and execute a statement, as an execute wrapper of Django."""
        if not str(sql).startswith(("BEGIN", "SAVEPOINT", "RELEASE")):
            with self._lock:
                self.count += 1
        return execute(sql, params, many, context)
