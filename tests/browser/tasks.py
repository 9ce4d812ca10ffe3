"""An actor that does what a test orders, so that every state stays until it was seen."""

import json
import os

import dramatiq

import taskstate
from benchmarks.demo.project.tasks import QUEUE

#: A worker that has no order for so long is one whose test has failed.
LIMIT_SECONDS = 60


class Rejected(taskstate.UserFacingError):
    """What the actor fails with by order, for good."""


class Stumbled(taskstate.UserFacingError):
    """What it fails with by order, to be tried again."""


@dramatiq.actor(queue_name=QUEUE, throws=Rejected)
def obey(key, for_state=None):
    """Take orders from a list in Redis, each a name and its arguments."""
    import redis

    # Newer clients end the wait after some seconds.
    client = redis.Redis.from_url(os.environ["BROKER"], socket_timeout=None)
    while True:
        found = client.blpop(key, timeout=LIMIT_SECONDS)
        assert found, "no order came"
        name, *arguments = json.loads(found[1])
        if name == "progress":
            taskstate.set_progress(*arguments)
        elif name == "fail":
            raise Rejected(*arguments)
        elif name == "stumble":
            raise Stumbled(*arguments)
        elif name == "end":
            break
    client.close()
