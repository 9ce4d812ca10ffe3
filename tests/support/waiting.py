"""Waiting for another thread."""

import threading

from taskstate.utils.sync import Deadline
from tests.support.limits import LIMIT_SECONDS


def wait_until(condition):
    deadline = Deadline(LIMIT_SECONDS)
    pause = threading.Event()
    while not condition():
        assert deadline.left() > 0
        pause.wait(0.001)
