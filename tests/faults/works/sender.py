"""A process that sends messages of every kind by order, and sends them again for a second life."""

import contextlib
import copy
import itertools
import logging

import django

django.setup()

import dramatiq  # noqa: E402
from dramatiq import Message, group, pipeline  # noqa: E402
from dramatiq.brokers.stub import StubBroker  # noqa: E402
from dramatiq.errors import Retry  # noqa: E402
from dramatiq.middleware import SkipMessage  # noqa: E402

import taskstate  # noqa: E402
from taskstate.models import Task  # noqa: E402
from tests.faults.works import tasks  # noqa: E402
from tests.support.processes import obey  # noqa: E402

broker = dramatiq.get_broker()

ACTORS = [tasks.work, tasks.Work, tasks.work_async]
#: What is done in each attempt of one life, and of the next one: different, so that it shows which
#: of them a row is about.
PLANS = [
    [["done"], ["expected"]],
    [["boom", "boom", "done"], ["done"]],
    [["boom", "boom", "boom"], ["done"]],
    [["expected"], ["boom", "done"]],
    [["boom", "expected"], ["boom", "boom", "done"]],
    [["retry", "retry", "done"], ["retry", "expected"]],
    [["skip"], ["done"]],
    [["boom", "skip"], ["boom", "done"]],
]
#: Without retries.
SHORT_PLANS = [[["done"]], [["expected"]], [["skip"]], [["boom"]]]
#: Of an actor that says itself how often it is retried: twice.
PLANS_WHEN = [
    [["boom", "boom", "boom"], ["done"]],
    [["retry", "done"], ["boom", "boom", "boom"]],
    [["boom", "boom", "done"], ["expected"]],
]
#: In a chain, all but the last one have to succeed.
LINKS = [[["done"], ["boom", "done"]], [["boom", "boom", "done"], ["done"]]]
DELAYS = [None, 80]


@contextlib.contextmanager
def meant():
    """Leave an actor's exception to the actor, where the broker lets the sender have it."""
    try:
        yield
    except (tasks.Boom, tasks.Expected, Retry, SkipMessage):
        pass


def make(actor, plans, **options):
    if actor is not tasks.work_when:
        # The last failure of a life is its end; lives differ in length.
        failures = [len(plan) for plan in plans if plan[-1] in ("boom", "retry")]
        options["max_retries"] = min(failures, default=20 + 1) - 1
    return actor.message_with_options(kwargs={"plans": plans, "for_state": {}}, **options)


class Orders:
    def __init__(self):
        self._made = {}

    def singles(self, number, life, *, delays, retries=True):
        """Send messages of each kind: by the second life, again, as they were made."""
        key = "singles"
        if not life:
            made = []
            for _ in range(number):
                for actor, plans in itertools.product(ACTORS, PLANS if retries else SHORT_PLANS):
                    made += [(make(actor, plans), delay) for delay in DELAYS[: 2 if delays else 1]]
                if retries:
                    made += [(make(tasks.work_when, plans), None) for plans in PLANS_WHEN]
            self._made[key] = [(message.asdict(), delay) for message, delay in made]
        for fields, delay in self._made[key]:
            with meant():
                broker.enqueue(Message(**copy.deepcopy(fields)), delay=delay)
        return [fields["message_id"] for fields, _ in self._made[key]]

    def pipelines(self, number, life, how):
        """Run pipelines; the second time the same object, or its head is sent again."""
        key = ("pipelines", how)
        if not life:
            made = []
            for turn in range(number):
                actors = [ACTORS[(turn + place) % len(ACTORS)] for place in range(3)]
                links = [
                    make(actor, LINKS[place], pipe_ignore=True)
                    for place, actor in enumerate(actors[:2])
                ]
                last = make(actors[2], PLANS[turn % len(PLANS)], pipe_ignore=True)
                made.append(pipeline([*links, last]))
            self._made[key] = made
        ids = [message.message_id for chain in self._made[key] for message in chain.messages]
        for chain in self._made[key]:
            with meant():
                if life and how == "head":
                    head = Task.objects.get(pk=chain.messages[0].message_id)
                    ids.remove(chain.messages[0].message_id)
                    ids.append(taskstate.resend(head).message_id)
                else:
                    chain.run()
        return ids

    def groups(self, number, life):
        """Run groups with a callback; the second time the same object."""
        if not life:
            made = []
            for turn in range(number):
                children = [make(actor, LINKS[turn % 2]) for actor in ACTORS]
                callback = make(tasks.work, PLANS[turn % len(PLANS)])
                members = group(children)
                members.add_completion_callback(callback)
                made.append((members, callback))
            self._made["groups"] = made
        ids = []
        for members, callback in self._made["groups"]:
            with meant():
                members.run()
            ids += [*(child.message_id for child in members.children), callback.message_id]
        return ids

    def flush(self):
        return taskstate.flush(30)


# What the actors raise is meant to be.
logging.getLogger("dramatiq").setLevel(logging.CRITICAL)
worker = None
if isinstance(broker, StubBroker):
    worker = dramatiq.Worker(broker, worker_threads=4, worker_timeout=50)
    worker.start()
obey(Orders())
if worker is not None:
    worker.stop()
