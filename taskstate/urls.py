"""URLs for a project to ``include``: the page of a user's tasks, and the data that updates it."""

from __future__ import annotations

from django.urls import path

from taskstate.views.events import tasks_events
from taskstate.views.json import tasks_json
from taskstate.views.page import tasks

app_name = "taskstate"

urlpatterns = [
    path("", tasks, name="tasks"),
    path("json/", tasks_json, name="tasks-json"),
    path("events/", tasks_events, name="tasks-events"),
]
