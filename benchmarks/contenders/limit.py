"""The least that tracking can cost in Python: three tuples per message, and a plain COPY of rows.

Nothing is merged, compared, limited or kept through an outage.
"""

import collections
import functools
import os
import socket
import threading
import time

import dramatiq
from django.db import connection

from taskstate.transitions.rank import TIME_SHIFT, pack_rank
from taskstate.transitions.status import Status

#: As with this package's defaults: at most one flush per interval, besides those of full batches.
INTERVAL_SECONDS = 0.5
BATCH = 1_000
#: How often the thread checks whether a batch is full.
NAP_SECONDS = 0.05
#: How often a thread that waits checks whether the writing thread has failed.
CHECK_SECONDS = 1

#: The columns that this package fills for a task without progress, errors and results.
COLUMNS = (
    "message_id",
    "status",
    "attempt",
    "actor_name",
    "queue_name",
    "user_id",
    "tenant",
    "description",
    "model_name",
    "app_name",
    "enqueued_at",
    "started_at",
    "finished_at",
    "updated_at",
    "worker",
    "written_at",
    "stamp",
    "rank",
)

ENQUEUED, RUNNING, DONE = "enqueued", "running", "done"
#: The rank of each status at time 0, without its stamp.
RANKS = {status: pack_rank(Status(status), 0, 0) for status in (ENQUEUED, DONE)}


class LimitMiddleware(dramatiq.Middleware):
    """Appends a tuple per transition to a queue.  A thread writes one new row per message.

    That is the row of a message that is done, or, while the process has no worker, of one that is
    enqueued.
    """

    def __init__(self):
        self._written_status = ENQUEUED
        #: Transitions, and an event for each thread that waits until those before it are written.
        self._queue = collections.deque()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="limit", daemon=True)
        self._thread.start()

    def before_worker_boot(self, broker, worker):
        """Write the rows of messages that are done."""
        self._written_status = DONE

    def after_worker_shutdown(self, broker, worker):
        """Write the rows of messages that are enqueued."""
        self._written_status = ENQUEUED

    def after_enqueue(self, broker, message, delay):
        """Append the transition to enqueued."""
        for_state = message.kwargs.get("for_state")
        if for_state is not None:
            now = int(time.time() * 1000)
            self._queue.append((ENQUEUED, now, None, message, for_state))

    def before_process_message(self, broker, proxy):
        """Append the transition to running."""
        message = proxy._message
        for_state = message.kwargs.get("for_state")
        if for_state is not None:
            proxy.started_at = now = int(time.time() * 1000)
            self._queue.append((RUNNING, now, now, message, for_state))

    def after_process_message(self, broker, proxy, *, result=None, exception=None):
        """Append the transition to done."""
        message = proxy._message
        for_state = message.kwargs.get("for_state")
        if for_state is not None and exception is None:
            now = int(time.time() * 1000)
            self._queue.append((DONE, now, proxy.started_at, message, for_state))

    def flush(self, timeout):
        """Wait until all rows are written; return False if that fails or takes longer."""
        written = threading.Event()
        self._queue.append(written)
        self._wake.set()
        deadline = time.monotonic() + timeout
        while self._thread.is_alive() and not written.is_set():
            left = deadline - time.monotonic()
            if left <= 0:
                break
            written.wait(min(left, CHECK_SECONDS))
        return written.is_set()

    # In the thread.  An error ends it.

    def _run(self):
        rows, waiting = [], []
        flushed_at = float("-inf")
        while True:
            self._wake.wait(NAP_SECONDS)
            self._wake.clear()
            self._drain(rows, waiting)
            now = time.monotonic()
            is_due = waiting or now - flushed_at >= INTERVAL_SECONDS
            while len(rows) >= (1 if is_due else BATCH):
                copy_rows(COLUMNS, rows[:BATCH])
                del rows[:BATCH]
                flushed_at = now
            while waiting:
                waiting.pop().set()

    def _drain(self, rows, waiting):
        """Take all items from the queue."""
        queue, written_status = self._queue, self._written_status
        while queue:
            item = queue.popleft()
            if type(item) is not tuple:
                waiting.append(item)
            elif item[0] == written_status:
                rows.append(make_row(*item))


def flush(timeout):
    """Wait until the broker's middleware has written all rows; return whether it has."""
    found = (one for one in dramatiq.get_broker().middleware if isinstance(one, LimitMiddleware))
    return next(found).flush(timeout)


def make_row(status, time_ms, started_at, message, for_state):
    """Return the values of ``COLUMNS``."""
    stamp = message.message_timestamp
    moment = as_text(time_ms)
    is_enqueued = status == ENQUEUED
    return (
        message.message_id,
        status,
        1,
        message.actor_name,
        message.queue_name,
        for_state["user_pk"],
        "",
        for_state["description"],
        for_state["model_name"],
        for_state["app_name"],
        as_text(stamp),
        None if is_enqueued else as_text(started_at),
        None if is_enqueued else moment,
        moment,
        None if is_enqueued else worker_name(),
        time.time_ns() // 1000,
        stamp,
        RANKS[status] | time_ms << TIME_SHIFT,
    )


def as_text(time_ms):
    """Return a time as PostgreSQL reads it."""
    return f"{second_as_text(time_ms // 1000)}.{time_ms % 1000:03d}+00"


@functools.lru_cache(maxsize=64)
def second_as_text(seconds):
    """Return a time in UTC, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))


@functools.lru_cache(maxsize=1)
def worker_name():
    """Return the name of this process, as this package writes it."""
    return f"{socket.gethostname()}:{os.getpid()}"


def copy_rows(columns, rows):
    """Insert rows into the table of tasks, with one COPY (PostgreSQL).

    Parameters:
      columns(Iterable): The names of the columns.
      rows(list): Tuples of values: text, integers and None.
    """
    names = ", ".join(map(connection.ops.quote_name, columns))
    statement = f"COPY taskstate_task ({names}) FROM STDIN"
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)
