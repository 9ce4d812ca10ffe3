"""The tables of a contender's process."""

import sys

from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.management.color import no_style
from django.db import connection


class Tables:
    """Made once, and emptied before each round."""

    def make(self):
        """Migrate, and add the user whom all messages belong to."""
        call_command("migrate", verbosity=0)
        User.objects.get_or_create(pk=1, defaults={"username": "bench"})

    def empty(self):
        """Empty the tables of tasks."""
        models = [
            model
            for label in settings.TERMS["apps"]
            if label != "django.contrib.postgres"
            for model in apps.get_app_config(label.rpartition(".")[2]).get_models()
        ]
        tables = [model._meta.db_table for model in models]
        statements = connection.ops.sql_flush(no_style(), tables)
        connection.ops.execute_sql_flush(statements)

    def missing(self, messages):
        """Return how many of ``messages`` have no row that says they are done; with this
        project's own middleware all must have one."""
        if settings.TERMS["model"] is None:
            return 0
        model = apps.get_model(settings.TERMS["model"])
        missing = messages - model._default_manager.filter(status="done").count()
        if missing and settings.TERMS["is_ours"]:
            sys.exit(f"{missing:,} of {messages:,} tasks are not done; they all have to be.")
        return missing
