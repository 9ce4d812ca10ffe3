"""Tools for the tests of a project: run tracked messages, and get their tasks.

``taskstate.testing.fixtures`` has a fixture for pytest.  Only tests import this package.
"""

from taskstate.testing.inline import run_messages, run_task
from taskstate.testing.waiting import wait_for_status

__all__ = ["run_messages", "run_task", "wait_for_status"]
