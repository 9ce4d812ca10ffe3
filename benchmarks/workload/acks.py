"""Counts acknowledged messages, in the same way for every contender."""

import threading

import dramatiq


class AckCounter(dramatiq.Middleware):
    """Counts acknowledged messages, and lets a thread wait for a number of them."""

    def __init__(self):
        self.count = 0
        self._target = 0
        self._lock = threading.Lock()
        self._reached = threading.Event()

    def after_ack(self, broker, message):
        """Count a message."""
        with self._lock:
            self.count += 1
            if self.count >= self._target:
                self._reached.set()

    after_nack = after_ack

    def wait(self, target, timeout):
        """Wait until ``target`` messages are acknowledged; return False after ``timeout``
        seconds."""
        with self._lock:
            self._target = target
            self._reached.clear()
            if self.count >= target:
                self._reached.set()
        return self._reached.wait(timeout)
