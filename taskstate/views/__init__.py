"""What ``taskstate.urls`` serves: the page, its JSON, and server-sent events."""

from .events import tasks_events
from .json import tasks_json
from .page import tasks

__all__ = ["tasks", "tasks_events", "tasks_json"]
