"""URLs for a project to ``include``: the page of a user's tasks, and the data that updates it."""

from __future__ import annotations

from django.urls import path

from taskstate import views

app_name = "taskstate"

urlpatterns = [
    path("", views.tasks, name="tasks"),
    path("json/", views.tasks_json, name="tasks-json"),
    path("events/", views.tasks_events, name="tasks-events"),
]
