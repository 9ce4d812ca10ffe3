"""A page of the user's tasks, and what keeps it up to date: for a project to ``include``."""

from __future__ import annotations

from django.urls import path

from . import views

app_name = "taskstate"

urlpatterns = [
    path("", views.tasks, name="tasks"),
    path("json/", views.tasks_json, name="tasks-json"),
    path("events/", views.tasks_events, name="tasks-events"),
]
