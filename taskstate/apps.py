"""The Django app."""

from __future__ import annotations

import contextlib

from django.apps import AppConfig
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.connection import ConnectionDoesNotExist

from .checks import check_settings, check_store, check_tables
from .conf import tasks_database


class TaskstateConfig(AppConfig):
    """Registers the system checks."""

    name = "taskstate"
    verbose_name = "Tasks"

    def ready(self) -> None:
        """Register the system checks, and import all that the writer's thread will need.

        Were it the thread that imports them, a process that forks at that moment would leave
        its child with half a module, for good.
        """
        checks.register(check_settings)
        checks.register(check_store, checks.Tags.database)
        checks.register(check_tables, checks.Tags.database)
        # Here, because models can't be imported any earlier.
        from .stores import choice  # noqa: F401

        with contextlib.suppress(ConnectionDoesNotExist, ImproperlyConfigured):
            # Loads the database's driver; it connects to nothing. What is wrong with the
            # settings is for the checks, and for the first flush, to tell.
            connections[tasks_database()]
