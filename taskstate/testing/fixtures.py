"""A fixture for pytest: a worker that runs in threads, as in production.

With pytest-django, list this module in the ``conftest.py`` at the root of a project::

    pytest_plugins = ["taskstate.testing.fixtures"]

It is not an entry point, since pytest loads those in every run in an environment.  This one would
import Django and Dramatiq into runs that don't use them.
"""

from __future__ import annotations

from typing import Any, Iterator

import dramatiq
import pytest

import taskstate
from taskstate.testing import settings, stub

#: How often a thread that waits for a message checks whether it must stop, in milliseconds.
WORKER_TIMEOUT = 50

#: How long the worker may take to stop, in seconds.  It waits for the running actors.
STOP_SECONDS = 60


@pytest.fixture
def taskstate_worker(
    transactional_db: None,  # noqa: ARG001 - pytest uses the name
) -> Iterator[dramatiq.Worker]:
    """Run a worker of the ``StubBroker`` in threads of its own during the test.

    The worker only sees what the test has committed, so the fixture uses pytest-django's
    ``transactional_db``.  States are written as in production, even if the settings of the tests
    have ``SYNCHRONOUS``: a state that can't be written at once is tried again.  Messages of
    earlier tests are dropped first.  At the end, running actors finish, and messages that are left
    are dropped.
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
