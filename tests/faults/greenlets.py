"""Greenlets that run messages through the hooks while Dramatiq's exceptions are thrown into them,
as its middleware does under gevent.  For a process of its own, since it patches Python.
"""

# ruff: noqa: E402 - gevent wants to come first
from gevent import monkey

monkey.patch_all()

import json
import random

import django

django.setup()

import gevent
from dramatiq.middleware import Shutdown
from dramatiq.middleware.threading import Interrupt

import taskstate
from taskstate.middleware import StateMiddleware
from tests.faults.interrupts import Account, Life, elsewhere, landed

GREENLETS = 10
LIMIT_SECONDS = 30
#: When an exception comes, at the latest: a message takes a commit or two.
SECONDS = 0.003


class Greenlife(Life):
    """Has one exception coming in each message."""

    def __init__(self, state, times):
        super().__init__(state, (Interrupt, gevent.Timeout))
        self.times = times

    def live_on(self):
        while self.noted < self.times:
            seconds = random.uniform(0, SECONDS)
            if random.random() < 0.5:
                timer = gevent.Timeout.start_new(seconds)
                cancel = timer.close
            else:
                me = gevent.getcurrent()
                cancel = gevent.spawn_later(seconds, me.throw, Shutdown).kill
            try:
                self.live()
            finally:
                cancel()


def main(times):
    """Let so many exceptions be thrown, and print what came of it."""
    state = StateMiddleware(flush_before_ack=True)
    account = Account(state)
    lives = [Greenlife(state, times // GREENLETS) for _ in range(GREENLETS)]
    gevent.joinall([gevent.spawn(life.run) for life in lives], raise_error=True)
    assert taskstate.flush(LIMIT_SECONDS)
    found = {
        "inside": landed(lives),
        "elsewhere": elsewhere(lives),
        "pushes": sum(len(life.calls) for life in lives),
        "differences": account.differences(lives),
        "failures": taskstate.stats().failed_flushes,
    }
    print(json.dumps(found))
