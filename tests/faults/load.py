"""A queue that is kept full with messages of every kind, and the rows that there must be in the
end, by what was sent alone."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

from taskstate.models import Task
from tests.faults.watching import until
from tests.support import servers
from tests.support.harness import AGE_LIMIT_SKIPS
from tests.support.processes import LiveProcess

#: How often each kind comes in ten messages, and how one ends.
KINDS = ["succeed"] * 7 + ["fail_once", "fail_for_good", "skip"]
ENDS = {
    "succeed": "done",
    "fail_once": "done",
    "fail_for_good": "failed",
    "skip": "skipped" if AGE_LIMIT_SKIPS else "failed",
}

#: How many messages are sent at once.
PORTION = 200
PAUSE_SECONDS = 0.02


def summarize(number):
    """Return the description of the message with this number; it begins with its kind."""
    return f"{KINDS[number % len(KINDS)]} {number}"


class Load:
    """Keeps a queue fed, from processes of its own, as web processes would.

    Parameters:
      env(dict): The environment of these processes.
      queue(Queue): The queue.
      waiting(int): How many messages are to wait in it.
      senders(int): How many processes send.
    """

    def __init__(self, env, queue, waiting, senders=1):
        self.sent = 0
        #: How many messages the queue held each time before it was filled up.
        self.lows = []
        self._queue = queue
        self._waiting = waiting
        self._senders = [LiveProcess("tests.faults.sender", [], env) for _ in range(senders)]
        self._thread = threading.Thread(target=self._run, name="load")
        self._ending = threading.Event()
        self._error = None
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        with self._stack as stack:
            for sender in self._senders:
                stack.enter_context(sender)
            self._pool = stack.enter_context(ThreadPoolExecutor())
            while self.sent < self._waiting:
                self._send()
            self._stack = stack.pop_all()
        self._thread.start()
        return self

    def __exit__(self, *error):
        """Send no more; all that was sent is tracked after that."""
        self._ending.set()
        self._thread.join()
        self._stack.close()
        if self._error is not None and not any(error):
            raise self._error
        assert {sender.process.returncode for sender in self._senders} == {0}

    def _run(self):
        try:
            while not self._ending.is_set():
                held = self._queue.held()
                if held < self._waiting:
                    self.lows.append(held)
                    self._send()
                else:
                    self._ending.wait(PAUSE_SECONDS)
        except BaseException as error:
            self._error = error

    def _send(self):
        """Let each process send a portion."""
        orders = []
        for sender in self._senders:
            orders.append(self._pool.submit(sender.order, "send", first=self.sent, number=PORTION))
            self.sent += PORTION
        for order in orders:
            order.result()

    def faults(self):
        """Return what is wrong with the rows once all is worked off: those without an end, by
        their ids, and one sentence about each other fault."""
        unfinished, others = [], []
        expected = set(map(summarize, range(self.sent)))
        for task in Task.objects.all().iterator():
            if task.description not in expected:
                others.append(f"{task.description!r} was never sent, or has two rows")
                continue
            expected.remove(task.description)
            kind = task.description.split()[0]
            if task.status not in ENDS.values():
                unfinished.append(str(task.pk))
            elif task.status != ENDS[kind]:
                others.append(f"{task.description!r} is {task.status}")
            elif kind != "skip" and task.attempt != 1 + (kind == "fail_once"):
                others.append(f"{task.description!r} is {task.status} at attempt {task.attempt}")
            elif kind != "skip" and not (
                task.enqueued_at <= task.started_at <= task.finished_at == task.updated_at
            ):
                others.append(f"{task.description!r} has times in a wrong order")
        others += [f"{description!r} is missing" for description in expected]
        return unfinished, others


class Queue:
    """A queue and its delay queue, as the broker itself sees them.

    Parameters:
      kind(str): "redis" or "rabbitmq".
      name(str): The queue.
    """

    def __init__(self, kind, name):
        self._kind = kind
        self._names = (name, f"{name}.DQ")
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        if self._kind == "redis":
            import redis

            self._client = redis.Redis.from_url(servers.url("redis"))
            self._stack.callback(self._client.close)
        else:
            import pika

            parameters = pika.URLParameters(servers.url("rabbitmq"))
            self._connection = self._stack.enter_context(pika.BlockingConnection(parameters))
        return self

    def __exit__(self, *error):
        self._stack.close()

    def held(self):
        """Return how many messages it holds, delayed ones included: on Redis, which keeps each
        until it is acknowledged, all; on RabbitMQ those that no worker has fetched."""
        if self._kind == "redis":
            return sum(self._client.hlen(f"dramatiq:{name}.msgs") for name in self._names)
        return sum(ready for ready, _ in self._declared())

    def held_without_workers(self):
        """Return how many messages it holds when no worker is left: RabbitMQ takes back what a
        consumer had fetched in the same step in which it forgets the consumer."""
        if self._kind == "rabbitmq":
            until(lambda: not any(consumers for _, consumers in self._declared()))
        return self.held()

    def _declared(self):
        """Return of both queues how many messages are ready, and how many consumers there are."""
        found = []
        channel = self._connection.channel()
        for name in self._names:
            method = channel.queue_declare(name, passive=True).method
            found.append((method.message_count, method.consumer_count))
        channel.close()
        return found
