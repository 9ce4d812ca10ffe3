"""Middleware that the settings name without arguments."""

import os

from dramatiq.middleware import GroupCallbacks as _GroupCallbacks
from dramatiq.rate_limits.backends import RedisBackend


class GroupCallbacks(_GroupCallbacks):
    """Dramatiq's, whose barriers are in Redis."""

    def __init__(self):
        super().__init__(RedisBackend(url=os.environ["WORKS_REDIS"]))
