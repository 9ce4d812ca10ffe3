"""The second process of ``SecondProcess``: tracks messages as it is ordered to.

Orders and answers are lines of JSON on standard input and output.  The first order is to begin.
"""

import sys
import threading
import time

import django

#: How many seconds the clock is ahead.
offset = 0.0
real_time = time.time
time.time = lambda: real_time() + offset

django.setup()

import dramatiq  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import DatabaseError, transaction  # noqa: E402
from django.db.backends.signals import connection_created  # noqa: E402
from django.dispatch import receiver  # noqa: E402
from dramatiq.broker import MessageProxy  # noqa: E402

import taskstate  # noqa: E402
from taskstate.middleware import StateMiddleware  # noqa: E402
from taskstate.signals import task_changed  # noqa: E402
from taskstate.stores.errors import is_conflict, is_contention  # noqa: E402
from taskstate.writer.pacing import BURST  # noqa: E402
from tests.support.processes import obey  # noqa: E402

broker = dramatiq.get_broker()
proxies = {}
written = threading.Event()
hold = threading.Event()
held = threading.Event()
release = threading.Event()


def hold_flush(execute, sql, params, many, context):
    """Hold a flush in the middle, when its rows are inserted and not committed."""
    if not (hold.is_set() and "INSERT" in sql and "taskstate_task" in sql):
        return execute(sql, params, many, context)
    # One statement in autocommit has no middle: give it one.
    with transaction.atomic(using=context["connection"].alias):
        result = execute(sql, params, many, context)
        hold.clear()
        held.set()
        release.wait(60)
    return result


@receiver(connection_created)
def watch(connection, **kwargs):
    if hold_flush not in connection.execute_wrappers:
        connection.execute_wrappers.append(hold_flush)


def note(**kwargs):
    written.set()


def make(message_id):
    return dramatiq.Message(
        queue_name="default",
        actor_name="act",
        args=(),
        kwargs={"for_state": {}},
        options={"taskstate_stamp": 1},
        message_id=message_id,
    )


def write_patiently(store, batch):
    """Write, and wait for locks as long as it takes, as the writer does; a conflict that the
    store could not settle by itself is an error."""
    while True:
        try:
            return store.write(batch)
        except DatabaseError as error:
            if is_conflict(error) or not is_contention(error):
                raise


class Orders:
    def __init__(self):
        self.state = self.store = None

    def begin(self, clock, store):
        """Begin again: nothing is pending, and nothing was tracked yet.

        Parameters:
          clock(float): How many seconds the clock is ahead.
          store(str): The store, as ``TASKSTATE["STORE"]`` names it.
        """
        global offset  # noqa: PLW0603
        release.set()
        if self.state is not None:
            assert self.state._writer.stop(30)
        offset = clock
        self.store = store
        # An interval that never ends during a test: after the burst, what is pushed stays pending.
        self.state = StateMiddleware(flush_interval=3600, store=store)
        proxies.clear()
        for event in (hold, held, release):
            event.clear()
        task_changed.connect(note, sender=StateMiddleware)
        return "begun"

    def enqueued(self, ids):
        for message_id in ids:
            self.state.after_enqueue(broker, make(message_id), None)

    def running(self, ids):
        for message_id in ids:
            proxies[message_id] = MessageProxy(make(message_id))
            self.state.before_process_message(broker, proxies[message_id])

    def done(self, ids):
        for message_id in ids:
            self.state.after_process_message(broker, proxies[message_id], result=None)
            self.state.before_ack(broker, proxies[message_id])

    def spend_burst(self, ids):
        """Use up what a quiet time writes at once: later pushes stay pending."""
        assert len(ids) == BURST
        for message_id in ids:
            written.clear()
            self.enqueued([message_id])
            assert written.wait(30)

    def pending(self):
        return taskstate.stats().pending

    def flush(self):
        return taskstate.flush(30)

    def hold_next_flush(self, ids):
        """Begin to flush, and stop in the middle of the transaction."""
        # SQLite can't commit while a statement still has rows to return.
        task_changed.disconnect(note, sender=StateMiddleware)
        hold.set()
        self.enqueued(ids)
        threading.Thread(target=taskstate.flush, args=[60], daemon=True).start()
        return held.wait(30)

    def release(self):
        release.set()
        return taskstate.flush(30)

    def clear(self):
        call_command("clear_tasks", yes=True, stdout=sys.stderr)
        return "cleared"

    def merge(self, rounds, size, seed):
        """Write the same messages in many batches, in an order of one's own."""
        import random

        from taskstate.stores.selection import open_store
        from taskstate.transitions.status import Status
        from tests.support.factories import START, make_id, make_pending, make_transition

        choice = random.Random(seed)
        store = open_store(self.store, has_receivers=lambda: bool(seed % 2))
        for number in range(rounds):
            ids = list(range(size))
            choice.shuffle(ids)
            write_patiently(
                store,
                [
                    make_pending(
                        make_transition(
                            choice.choice(list(Status)),
                            stamp=choice.randint(1, 3),
                            at=START + number,
                            message_id=make_id(n),
                            attempt=seed,
                        )
                    )
                    for n in ids[: choice.randint(1, size)]
                ],
            )
        last = [
            make_pending(
                make_transition(
                    Status.DONE, 4, START + n + seed, message_id=make_id(n), attempt=seed
                )
            )
            for n in range(size)
        ]
        choice.shuffle(last)
        write_patiently(store, last)
        store.close()
        return "merged"


obey(Orders())
