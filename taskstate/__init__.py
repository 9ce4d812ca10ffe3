"""Keeps a row per tracked Dramatiq message true, at the cost of a queue push.

The public names are ``flush``, ``stats`` and ``Stats`` here,
``taskstate.middleware.StateMiddleware``, ``taskstate.signals.task_changed`` and
``taskstate.models.Task`` with its ``Status``.
"""

from .flusher import Stats
from .process import flush, stats
from .version import __version__

__all__ = ["Stats", "__version__", "flush", "stats"]
