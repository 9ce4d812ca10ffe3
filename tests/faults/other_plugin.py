"""A pytest plugin for the tests of other projects: our middleware on each broker that they make."""

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker

from tests.faults.dramatiq_plugin import *  # noqa: F403 - its fixtures and hooks
from tests.faults.dramatiq_plugin import REDIS, STATE, StateMiddleware, prepare, recorder

#: It passes only if the abort comes before a worker that is idle has got the message.
UNSTEADY = {"test_abort_before_processing"}

make = dramatiq.Broker.__init__


def make_watched(broker, *args, **kwargs):
    make(broker, *args, **kwargs)
    if not isinstance(broker, StubBroker):  # The fixture's has it anyway.
        if STATE != "without":
            broker.add_middleware(StateMiddleware())
        broker.add_middleware(recorder)


dramatiq.Broker.__init__ = make_watched


def pytest_collection_modifyitems(items):
    items[:] = [item for item in items if item.originalname not in UNSTEADY]


# What dramatiq-abort's source distribution lacks.


@pytest.fixture
def stub_broker():
    broker = prepare(StubBroker())
    # As it was before Dramatiq 2: what is aborted doesn't raise where it is waited for.
    broker.fail_fast_default = False
    yield broker
    broker.flush_all()
    broker.close()


@pytest.fixture
def stub_event_backend():
    from dramatiq_abort.backends import StubBackend

    return StubBackend()


@pytest.fixture
def redis_event_backend():
    from dramatiq_abort.backends import RedisBackend

    return RedisBackend.from_url(REDIS)


@pytest.fixture(params=["stub", "redis"])
def event_backend(request):
    return request.getfixturevalue(f"{request.param}_event_backend")
