"""The tables of a contender's database."""

import sys

from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.management.color import no_style
from django.db import connection

#: ``fill`` inserts this many rows per statement.
FILL_STEP = 500_000


def migrate():
    """Create the tables, and the user whom all messages belong to."""
    call_command("migrate", verbosity=0)
    User.objects.get_or_create(pk=1, defaults={"username": "bench"})


def empty():
    """Delete all rows of the contender's apps."""
    models = [
        model
        for label in settings.BENCHMARK["apps"]
        if label != "django.contrib.postgres"
        for model in apps.get_app_config(label.rpartition(".")[2]).get_models()
    ]
    tables = [model._meta.db_table for model in models]
    statements = connection.ops.sql_flush(no_style(), tables)
    connection.ops.execute_sql_flush(statements)


def count_missing(messages, status="done"):
    """Return how many of the messages have no row with this status.

    Exits if a row is missing though the contender says that it has written all of them.
    """
    if settings.BENCHMARK["model"] is None:
        return 0
    model = apps.get_model(settings.BENCHMARK["model"])
    missing = messages - model._default_manager.filter(status=status).count()
    if missing and settings.BENCHMARK["flush"] is not None:
        sys.exit(
            f"{missing:,} of {messages:,} tasks do not have the status {status}; all must have it."
        )
    return missing


def fill(rows):
    """Fill the table of tasks up to this number of rows (PostgreSQL)."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM taskstate_task")
        for start in range(cursor.fetchone()[0], rows, FILL_STEP):
            cursor.execute(
                "INSERT INTO taskstate_task (message_id, status, attempt, actor_name, queue_name, "
                "description, model_name, app_name, enqueued_at, started_at, finished_at, "
                "updated_at, stamp, rank, tenant, user_id) "
                "SELECT gen_random_uuid(), 'done', 1, 'work', "
                "'default', 'Export of report ' || n, 'Report', 'shop', "
                "now() - n * interval '1 second', now(), now(), now(), 1, 1, '', 1 "
                "FROM generate_series(%s, %s) AS n",
                [start + 1, min(start + FILL_STEP, rows)],
            )
        cursor.execute("VACUUM ANALYZE taskstate_task")
