"""What a test can't do without.

Not in ``servers``, which the settings read: pytest is not for the processes that tests start.
"""

import pytest

from tests.support import servers


def need(server):
    """Skip the test if a server is missing; the summary names it."""
    if not servers.answers(server):
        pytest.skip(f"{server} does not answer")
