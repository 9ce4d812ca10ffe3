"""The process that ``Load`` sends from: orders are lines of JSON on standard input."""

from concurrent.futures import ThreadPoolExecutor

import django

django.setup()

from benchmarks.demo.project import tasks  # noqa: E402
from tests.faults import load  # noqa: E402
from tests.support.processes import obey  # noqa: E402

#: While one waits for the broker, others send.
THREADS = 8


class Orders:
    def __init__(self):
        self._pool = ThreadPoolExecutor(THREADS)

    def send(self, first, number):
        """Send so many messages, numbered from ``first`` on."""
        return len(list(self._pool.map(_send, range(first, first + number))))


def _send(number):
    description = load.summarize(number)
    kind = description.split()[0]
    arguments = (1,) if kind == "fail_once" else ()
    getattr(tasks, kind).send(*arguments, for_state={"description": description})


obey(Orders())
