"""For the tests of a project: run tracked messages, and look at their tasks.

``taskstate.testing.fixtures`` holds a fixture for pytest.  Nothing here is imported unless a test
does.
"""

from .inline import run_messages, run_task
from .waiting import wait_for_status

__all__ = ["run_messages", "run_task", "wait_for_status"]
