"""What is counted in every contender's process alike: acknowledgements and statements."""

import threading

import dramatiq
from django.db.backends.signals import connection_created


class AckCounter(dramatiq.Middleware):
    """Counts the messages that are acknowledged, and tells when it is enough."""

    def __init__(self):
        self.count = 0
        self._target = 0
        self._lock = threading.Lock()
        self._enough = threading.Event()

    def after_ack(self, broker, message):
        """Count one."""
        with self._lock:
            self.count += 1
            if self.count >= self._target:
                self._enough.set()

    after_nack = after_ack

    def wait(self, target, timeout):
        """Wait until ``target`` messages were acknowledged; return False after ``timeout``
        seconds."""
        with self._lock:
            self._target = target
            self._enough.clear()
            if self.count >= target:
                self._enough.set()
        return self._enough.wait(timeout)


class StatementCounter:
    """Counts the SQL statements of all connections made from now on, but those that begin and end
    transactions: some backends run them as statements, and others don't."""

    def __init__(self):
        self.count = 0
        self._lock = threading.Lock()
        connection_created.connect(self._watch, weak=False)

    def _watch(self, connection, **_):
        if self not in connection.execute_wrappers:
            connection.execute_wrappers.append(self)

    def __call__(self, execute, sql, params, many, context):
        """Count one; an execute wrapper as Django documents them."""
        if not str(sql).startswith(("BEGIN", "SAVEPOINT", "RELEASE")):
            with self._lock:
                self.count += 1
        return execute(sql, params, many, context)
