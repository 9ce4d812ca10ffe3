"""Hooks that a test calls itself, and messages for them."""

import dramatiq

from taskstate.middleware import StateMiddleware


def make_message(for_state, **values):
    values = {
        "queue_name": "default",
        "actor_name": "act",
        "args": (),
        "kwargs": {"for_state": for_state},
        "options": {},
        **values,
    }
    return dramatiq.Message(**values)


def call(state, broker, hook, message, arguments=()):
    getattr(state, hook)(broker, message, *arguments)


class Exploding(dict):
    def get(self, *arguments):
        return 1 / 0


def alone(**options):
    """A middleware whose writer has no thread: the test takes its steps."""
    state = StateMiddleware(flush_interval=0, shutdown_timeout=0, **options)
    state._writer.thread._start = state._writer.thread._start_soon = lambda: False
    return state
