"""The views of ``taskstate.urls``: the page, its JSON, and its server-sent events."""

from taskstate.views.events import tasks_events
from taskstate.views.json import tasks_json
from taskstate.views.page import tasks

__all__ = ["tasks", "tasks_events", "tasks_json"]
