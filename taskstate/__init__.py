"""Keeps one up-to-date row per tracked Dramatiq message; a hook only appends to a queue.

The public names are those in ``__all__``, ``taskstate.middleware.StateMiddleware``,
``taskstate.signals.task_changed``, and ``taskstate.models.Task`` with its ``Status``.  The names in
``taskstate.testing`` are for the tests of a project.
"""

from taskstate.resending import BrokerUnavailableError, ResendError, resend
from taskstate.tracking.progress import current_task_id, set_progress, set_result, track
from taskstate.tracking.user_errors import UserFacingError
from taskstate.version import __version__
from taskstate.writer.lifecycle import flush, stats
from taskstate.writer.stats import Stats

__all__ = [
    "BrokerUnavailableError",
    "ResendError",
    "Stats",
    "UserFacingError",
    "__version__",
    "current_task_id",
    "flush",
    "resend",
    "set_progress",
    "set_result",
    "stats",
    "track",
]
