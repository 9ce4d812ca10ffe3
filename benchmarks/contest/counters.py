"""What is counted in every contender's process alike: acknowledgements."""

import threading

import dramatiq


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
