"""Keeps a row per tracked Dramatiq message true, at the cost of a queue push.

The public names are those of ``__all__`` here (the first four are for actors),
``taskstate.middleware.StateMiddleware``, ``taskstate.signals.task_changed`` and
``taskstate.models.Task`` with its ``Status``; and for a project's tests those of
``taskstate.testing``.
"""

from .flusher import Stats
from .process import flush, stats
from .reporting import current_task_id, set_progress, set_result, track
from .resending import BrokerUnavailableError, SendAgainError, send_again
from .version import __version__

__all__ = [
    "BrokerUnavailableError",
    "SendAgainError",
    "Stats",
    "__version__",
    "current_task_id",
    "flush",
    "send_again",
    "set_progress",
    "set_result",
    "stats",
    "track",
]
