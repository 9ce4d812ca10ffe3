"""A process that tracks messages with large texts by order, and says what memory it takes.

It calls the hooks as Dramatiq does, with no broker, which would take memory for itself.  Orders and
answers are lines of JSON on standard input and output.
"""

import ctypes
import dataclasses
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import django

django.setup()

import dramatiq  # noqa: E402
from dramatiq.broker import MessageProxy  # noqa: E402

import taskstate  # noqa: E402
from taskstate.middleware import StateMiddleware  # noqa: E402
from tests.support.processes import obey  # noqa: E402

THREADS = 4


class Records(logging.Handler):
    """Keeps what is logged of task states, from warnings on."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.seen = []

    def emit(self, record):
        self.seen.append((record.levelname, record.getMessage()))


class Orders:
    def __init__(self):
        broker = dramatiq.get_broker()
        self.broker = broker
        self.state = next(m for m in broker.middleware if isinstance(m, StateMiddleware))
        self.records = Records()
        logging.getLogger("taskstate").addHandler(self.records)
        self.pool = ThreadPoolExecutor(THREADS)

    def work(self, first, number):
        """Send and run so many messages; return their ids, in order."""
        return list(self.pool.map(self._live, range(first, first + number)))

    def _live(self, number):
        message = dramatiq.Message(
            queue_name="default",
            actor_name="work",
            args=(f"{number:050000}",),
            kwargs={"for_state": {"description": str(number), "metadata": {"text": "x" * 3_000}}},
            options={},
        )
        self.state.before_enqueue(self.broker, message, None)
        self.state.after_enqueue(self.broker, message, None)
        proxy = MessageProxy(message)
        self.state.before_process_message(self.broker, proxy)
        taskstate.set_progress(1, 2, "Half")
        taskstate.set_result(f"{number:060000}")
        if number % 2:
            self.state.after_process_message(self.broker, proxy, exception=_error(number))
        else:
            self.state.after_process_message(self.broker, proxy, result=None)
        self.state.before_ack(self.broker, proxy)
        return message.message_id

    def resident(self):
        """Return the memory of this process, in bytes (Linux), but for what the C library keeps."""
        ctypes.CDLL(None).malloc_trim(0)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def stats(self):
        return dataclasses.asdict(taskstate.stats())

    def flush(self, timeout):
        return taskstate.flush(timeout)

    def logged(self):
        return self.records.seen


def _error(number):
    """Return an exception with a long traceback."""

    def dig(depth):
        if depth:
            dig(depth - 1)
        raise ValueError(f"{number:0200}")

    try:
        dig(25)
    except ValueError as error:
        return error


obey(Orders())
