"""How many SQL statements are run."""

import threading


class StatementCounter:
    """Counts the SQL statements of the connections it is put on, but those that begin and end
    transactions: some backends run them as statements, and others don't."""

    def __init__(self):
        self.count = 0
        self._lock = threading.Lock()

    def put_on(self, connection):
        """Count what is run on a connection, once."""
        if self not in connection.execute_wrappers:
            connection.execute_wrappers.append(self)

    def __call__(self, execute, sql, params, many, context):
        """Count one; an execute wrapper as Django documents them."""
        if not str(sql).startswith(("BEGIN", "SAVEPOINT", "RELEASE")):
            with self._lock:
                self.count += 1
        return execute(sql, params, many, context)
