"""Create the tables, with room in PostgreSQL's pages for updates in place."""

from typing import Any

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


def leave_room_in_pages(apps: Any, schema_editor: Any) -> None:
    """Leave half of each page free on PostgreSQL, so that updates of a row stay in its page.

    Such updates don't change the indexes.  With 20,000 messages that were all sent first and
    processed later, 1.5 % of the updates stayed in their page when pages were full, and 100 % when
    half of each was free.  The table had the same size.
    """
    if schema_editor.connection.vendor == "postgresql":
        table = schema_editor.quote_name(apps.get_model("taskstate", "Task")._meta.db_table)
        schema_editor.execute(f"ALTER TABLE {table} SET (fillfactor = 50)")


def compare_tenants_exactly(apps: Any, schema_editor: Any) -> None:
    """Distinguish the tenants "Acme" and "acme" on MariaDB and MySQL, whatever their collation."""
    if schema_editor.connection.vendor == "mysql":
        table = schema_editor.quote_name(apps.get_model("taskstate", "Task")._meta.db_table)
        schema_editor.execute(
            f"ALTER TABLE {table} MODIFY tenant varchar(100) "
            "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL"
        )


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Watermark",
            fields=[
                (
                    "id",
                    models.PositiveSmallIntegerField(default=1, primary_key=True, serialize=False),
                ),
                (
                    "cleared_at",
                    models.BigIntegerField(
                        help_text="Microseconds since 1970, by the database's own clock."
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="Task",
            fields=[
                ("message_id", models.UUIDField(primary_key=True, serialize=False)),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("enqueued", "Enqueued"),
                            ("delayed", "Delayed"),
                            ("running", "Running"),
                            ("done", "Done"),
                            ("failed", "Failed"),
                            ("skipped", "Skipped"),
                        ],
                        max_length=16,
                    ),
                ),
                (
                    "attempt",
                    models.PositiveIntegerField(
                        default=1, help_text="1 in the first run: Dramatiq's retries + 1."
                    ),
                ),
                ("actor_name", models.CharField(max_length=300)),
                ("queue_name", models.CharField(max_length=100)),
                (
                    "tenant",
                    models.CharField(
                        blank=True,
                        default="",
                        help_text='The tenant of the task, on a site with tenants; "?" if it is unknown.',
                        max_length=100,
                    ),
                ),
                ("description", models.CharField(blank=True, default="", max_length=255)),
                ("model_name", models.CharField(blank=True, default="", max_length=100)),
                ("app_name", models.CharField(blank=True, default="", max_length=100)),
                (
                    "enqueued_at",
                    models.DateTimeField(
                        help_text="The message's own timestamp: when it was created."
                    ),
                ),
                (
                    "started_at",
                    models.DateTimeField(
                        blank=True,
                        help_text="When the first run began; retries don't change it. Empty if skipped.",
                        null=True,
                    ),
                ),
                ("finished_at", models.DateTimeField(blank=True, null=True)),
                (
                    "updated_at",
                    models.DateTimeField(
                        help_text="When the last transition happened. It may have been written later."
                    ),
                ),
                (
                    "error",
                    models.CharField(
                        blank=True,
                        help_text='Type and message of the exception that ended the last attempt, kept until the task is done; "lost" if check_tasks has marked the task as failed.',
                        max_length=255,
                        null=True,
                    ),
                ),
                (
                    "user_error",
                    models.CharField(
                        blank=True,
                        help_text="What the task's user may read about that exception; empty if it was not meant for users.",
                        max_length=255,
                        null=True,
                    ),
                ),
                (
                    "traceback",
                    models.TextField(
                        blank=True,
                        help_text="The traceback of that exception; only its innermost end if it is long.",
                        null=True,
                    ),
                ),
                (
                    "next_attempt_at",
                    models.DateTimeField(
                        blank=True, help_text="When a delayed task is due to run.", null=True
                    ),
                ),
                (
                    "worker",
                    models.CharField(
                        blank=True,
                        help_text="Host and process id of the worker that runs the task or ran it last; empty while the task waits.",
                        max_length=100,
                        null=True,
                    ),
                ),
                (
                    "progress",
                    models.FloatField(
                        blank=True,
                        help_text="In percent; empty until the task first reports it.",
                        null=True,
                    ),
                ),
                ("progress_text", models.CharField(blank=True, max_length=255, null=True)),
                ("metadata", models.JSONField(blank=True, null=True)),
                ("result", models.JSONField(blank=True, null=True)),
                (
                    "stored_message",
                    models.TextField(
                        blank=True,
                        help_text="The encoded message, if KEEP_MESSAGE is on.",
                        null=True,
                    ),
                ),
                (
                    "seen_at",
                    models.DateTimeField(
                        blank=True, help_text="When the result was marked as seen.", null=True
                    ),
                ),
                (
                    "written_at",
                    models.BigIntegerField(
                        editable=False,
                        help_text="When the row was last written: microseconds since 1970, by the database's own clock. Clients that poll for changes use it as a cursor.",
                        null=True,
                    ),
                ),
                (
                    "stamp",
                    models.BigIntegerField(
                        editable=False,
                        help_text="When the message was last enqueued, by a hybrid logical clock: milliseconds since 1970 that increase with each enqueue, even if the clocks of hosts differ.",
                    ),
                ),
                (
                    "rank",
                    models.BigIntegerField(
                        editable=False,
                        help_text="The order of transitions with the same stamp. The greatest stamp wins, then the greatest rank.",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        blank=True,
                        db_constraint=False,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "ordering": ["-enqueued_at"],
                "indexes": [
                    models.Index(fields=["-enqueued_at"], name="taskstate_task_enqueued_at"),
                    models.Index(
                        fields=["tenant", "user", "-enqueued_at"], name="taskstate_task_user"
                    ),
                    models.Index(fields=["app_name", "model_name"], name="taskstate_task_object"),
                ],
            },
        ),
        migrations.RunPython(leave_room_in_pages, migrations.RunPython.noop, elidable=False),
        # MariaDB and MySQL can't alter a table in a transaction.
        migrations.RunPython(compare_tenants_exactly, migrations.RunPython.noop, atomic=False),
    ]
