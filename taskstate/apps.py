"""The Django app."""

from __future__ import annotations

import contextlib

from django.apps import AppConfig
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.connection import ConnectionDoesNotExist

from taskstate.checks import check_settings, check_store, check_tables
from taskstate.conf import tasks_database


class TaskstateConfig(AppConfig):
    """Registers the system checks."""

    name = "taskstate"
    verbose_name = "Tasks"

    def ready(self) -> None:
        """Register the system checks, and import what the writer's thread will need.

        If the thread itself imported it, a process that forks at that moment would leave its
        child with a half-imported module for good.
        """
        checks.register(check_settings)
        checks.register(check_store, checks.Tags.database)
        checks.register(check_tables, checks.Tags.database)
        # Here, because models can't be imported earlier.
        from taskstate.stores import selection  # noqa: F401

        with contextlib.suppress(ConnectionDoesNotExist, ImproperlyConfigured):
            # This loads the database's driver, without connecting. Wrong settings are reported by
            # the checks, and by the first flush.
            connections[tasks_database()]
