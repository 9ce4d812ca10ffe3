"""A pytest plugin: what Dramatiq's own tests need and its source distribution lacks.

That are the fixtures with the brokers, and the module ``common`` of the tests, which is made of
this one.  ``DRILL_STATE`` says whether our middleware is among a broker's: not at all
(``without``), with the messages as the tests make them (``untracked``), or as if each of them were
tracked (``tracked``).
"""

import contextlib
import dataclasses
import inspect
import json
import logging
import os
import uuid
from pathlib import Path

import django
import pika
import pytest
import redis

django.setup()

import dramatiq  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402
from dramatiq import Message, Worker  # noqa: E402
from dramatiq.brokers.rabbitmq import RabbitmqBroker  # noqa: E402
from dramatiq.brokers.redis import RedisBroker  # noqa: E402
from dramatiq.brokers.stub import StubBroker  # noqa: E402
from dramatiq.rate_limits import backends as limits  # noqa: E402
from dramatiq.results import backends as results  # noqa: E402

import taskstate  # noqa: E402
from taskstate.middleware import StateMiddleware  # noqa: E402
from taskstate.models import Task  # noqa: E402

STATE = os.environ["DRILL_STATE"]
NIGHTLY = os.environ.get("TASKSTATE_FAULTS") == "nightly"
REDIS = os.environ["DRILL_REDIS"]
RABBITMQ = pika.URLParameters(os.environ["DRILL_RABBITMQ"])
THREADS = 32

#: One test stops the machine's own RabbitMQ.  And others assert how long something took: on a busy
#: machine they fail now with our middleware and now without, so these are left to the night.
UNWANTED = (
    ["os.system"] if NIGHTLY else ["os.system", "monotonic()", "current_millis()", "time.time()"]
)
#: These fail without our middleware as well if a thread is late: the first after a sleep of 0.1
#: seconds, the others if a message is processed before they have replaced what they want to watch.
UNSTEADY = [
    "test_rabbitmq_broker_consuming_messages_re_declares_queues_when_declared_queue_disappears",
    "test_redis_consumer_ack_can_retry_on_connection_error",
    "test_redis_consumer_nack_can_retry_on_connection_error",
]

# The names that the tests import from their module "common".
RABBITMQ_USERNAME = RABBITMQ.credentials.username
RABBITMQ_PASSWORD = RABBITMQ.credentials.password
RABBITMQ_CREDENTIALS = RABBITMQ.credentials
never = pytest.mark.skipif("False", reason="never")
skip_in_ci = skip_on_windows = skip_on_pypy = skip_unless_rabbit_mq = never


@contextlib.contextmanager
def worker(*args, **options):
    started = Worker(*args, **options)
    started.start()
    try:
        yield started
    finally:
        started.stop()


class Recorder(dramatiq.Middleware):
    """Notes which messages were enqueued, or begun: a few tests put them into a queue by hand."""

    def __init__(self):
        self.seen = set()

    def after_enqueue(self, broker, message, delay):
        self.see(message)

    def before_process_message(self, broker, message):
        self.see(message)

    def see(self, message):
        with contextlib.suppress(ValueError):  # No message id of Dramatiq's.
            self.seen.add(str(uuid.UUID(message.message_id)))


class LooksTracked(dict):
    """The kwargs of a message that seem to hold a ``for_state``; no actor is called with it."""

    def get(self, key, default=None):
        return {} if key == "for_state" else super().get(key, default)

    def __missing__(self, key):
        if key == "for_state":
            return {}
        raise KeyError(key)


def track_every_message():
    """Give each message such kwargs as soon as it is made."""
    name = "__init__" if dataclasses.is_dataclass(Message) else "__new__"
    make = getattr(Message, name)

    def make_tracked(first, *args, kwargs, **others):
        return make(first, *args, kwargs=LooksTracked(kwargs), **others)

    setattr(Message, name, make_tracked)


recorder = Recorder()
errors = []
handler = logging.Handler(logging.WARNING)
handler.emit = lambda record: errors.append(record.getMessage())
# Two of Dramatiq's tests put a message into a queue by hand: it comes without a stamp.
handler.addFilter(lambda record: "without the option 'taskstate_stamp'" not in record.getMessage())
logging.getLogger("taskstate").addHandler(handler)


def pytest_sessionstart():
    call_command("migrate", verbosity=0)
    connection.close()
    if STATE == "tracked":
        track_every_message()


def pytest_collection_modifyitems(items):
    """Leave out what our middleware has no part in, and what can't be compared."""
    brokers = {"stub_broker", "redis_broker", "rabbitmq_broker"}
    items[:] = [
        item
        for item in items
        if brokers & set(item.fixturenames)
        and item.name not in UNSTEADY
        and not any(text in inspect.getsource(item.function) for text in UNWANTED)
    ]


def pytest_sessionfinish():
    """Report to the drill which messages were seen, which have rows, and what was logged."""
    taskstate.flush(60)
    rows = [str(message_id) for message_id in Task.objects.values_list("pk", flat=True)]
    connection.close()
    found = {"seen": sorted(recorder.seen), "rows": sorted(rows), "errors": errors}
    Path("found.json").write_text(json.dumps(found))


def prepare(broker):
    if STATE != "without":
        broker.add_middleware(StateMiddleware())
    broker.add_middleware(recorder)
    broker.emit_after("process_boot")
    dramatiq.set_broker(broker)
    return broker


def empty_redis():
    client = redis.Redis.from_url(REDIS)
    client.flushdb()
    return client


@pytest.fixture
def stub_broker():
    broker = prepare(StubBroker())
    yield broker
    broker.flush_all()
    broker.close()


@pytest.fixture
def rabbitmq_broker():
    broker = prepare(
        RabbitmqBroker(
            parameters=[
                {"host": RABBITMQ.host, "port": RABBITMQ.port, "credentials": RABBITMQ_CREDENTIALS}
            ],
            max_priority=10,
        )
    )
    yield broker
    broker.flush_all()
    broker.close()


@pytest.fixture
def redis_broker():
    broker = prepare(RedisBroker(client=empty_redis()))
    yield broker
    broker.client.flushdb()
    broker.close()


@pytest.fixture
def stub_worker(stub_broker):
    with worker(stub_broker, worker_timeout=100, worker_threads=THREADS) as started:
        yield started


@pytest.fixture
def rabbitmq_worker(rabbitmq_broker):
    with worker(rabbitmq_broker, worker_threads=THREADS) as started:
        yield started


@pytest.fixture
def redis_worker(redis_broker):
    with worker(redis_broker, worker_threads=THREADS) as started:
        yield started


def backend(module, name):
    return module.StubBackend() if name == "stub" else module.RedisBackend(client=empty_redis())


@pytest.fixture(params=["redis", "stub"])
def result_backend(request):
    return backend(results, request.param)


@pytest.fixture
def redis_result_backend():
    return backend(results, "redis")


@pytest.fixture(params=["redis", "stub"])
def rate_limiter_backend(request):
    return backend(limits, request.param)
