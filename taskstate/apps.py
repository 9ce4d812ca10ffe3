"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks


class TaskstateConfig(AppConfig):
    """Registers the system checks."""

    name = "taskstate"
    verbose_name = "Tasks"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks."""
        # Here, because checks read the settings, and an app's module is imported before them.
        from .checks import check_settings

        checks.register(check_settings)
