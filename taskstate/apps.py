"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks

from .checks import check_settings


class TaskstateConfig(AppConfig):
    """Registers the system checks."""

    name = "taskstate"
    verbose_name = "Tasks"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks."""
        checks.register(check_settings)
