"""A fixture for pytest: a worker that really runs.

With pytest-django, name it in the ``conftest.py`` at the root of a project::

    pytest_plugins = ["taskstate.testing.fixtures"]

It is no entry point: these are loaded into every run of pytest in an environment, and this one
would bring Django and Dramatiq to runs that want neither.
"""

from __future__ import annotations

from typing import Any, Iterator

import dramatiq
import pytest

import taskstate

from . import settings, stub

#: How often a thread that waits for a message looks whether it is to end, in milliseconds.
WORKER_TIMEOUT = 50

#: How long the worker may take to end, in seconds: as long as the actor that it runs.
STOP_SECONDS = 60


@pytest.fixture
def taskstate_worker(
    transactional_db: None,  # noqa: ARG001 - pytest goes by the name
) -> Iterator[dramatiq.Worker]:
    """Let a worker of the ``StubBroker`` run during the test, in threads of its own.

    The test has to commit what the worker is to see, so it comes with pytest-django's
    ``transactional_db``.  States are written as in production, even if the tests' settings say
    ``SYNCHRONOUS``: one that can't be written at once is tried again.  Messages of earlier tests
    are dropped; so is, in the end, what this one has left, once the running actors have ended.
    """
    broker = stub.tracking_stub(dramatiq.get_broker())
    stub.empty(broker)
    worker: Any = dramatiq.Worker(broker, worker_timeout=WORKER_TIMEOUT)
    with settings.synchronous(value=False):
        worker.start()
        try:
            yield worker
        finally:
            worker.stop(timeout=STOP_SECONDS * 1000)
            taskstate.flush(timeout=STOP_SECONDS)
            stub.empty(broker)
