"""Progress, failures, results, and what else people look at."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    """All columns are null for the rows that are there, so that no table is rewritten.

    An index by user and time takes the place of the one by user alone: pages of a user's tasks come
    in its order, and there is still one index to keep.
    """

    dependencies = [
        ("taskstate", "0002_error"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField("task", "metadata", models.JSONField(blank=True, null=True)),
        migrations.AddField(
            "task",
            "next_attempt_at",
            models.DateTimeField(blank=True, help_text="When a delayed task is due.", null=True),
        ),
        migrations.AddField(
            "task",
            "progress",
            models.FloatField(
                blank=True, help_text="In percent; empty until it is first told.", null=True
            ),
        ),
        migrations.AddField(
            "task", "progress_text", models.CharField(blank=True, max_length=255, null=True)
        ),
        migrations.AddField("task", "result", models.JSONField(blank=True, null=True)),
        migrations.AddField(
            "task",
            "seen_at",
            models.DateTimeField(
                blank=True, help_text="When its result was marked as seen.", null=True
            ),
        ),
        migrations.AddField(
            "task",
            "stored_message",
            models.TextField(
                blank=True, help_text="The message, encoded, if STORE_MESSAGE is on.", null=True
            ),
        ),
        migrations.AddField(
            "task",
            "traceback",
            models.TextField(
                blank=True,
                help_text="Of that exception; its innermost end if it is long.",
                null=True,
            ),
        ),
        migrations.AddField(
            "task",
            "worker",
            models.CharField(
                blank=True,
                help_text="Host and process id of who runs it or ran it; empty while it waits.",
                max_length=100,
                null=True,
            ),
        ),
        migrations.AddField(
            "task",
            "written_at",
            models.BigIntegerField(
                editable=False,
                help_text="When the row was written last: microseconds since 1970, by the "
                "database's own clock. A cursor for those who follow what changes.",
                null=True,
            ),
        ),
        migrations.AlterField(
            "task",
            "error",
            models.CharField(
                blank=True,
                help_text="Type and message of the exception that ended its last attempt; it stays "
                'until the task is done. "lost" if check_tasks has marked it as failed.',
                max_length=255,
                null=True,
            ),
        ),
        migrations.AlterField(
            "task",
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
        migrations.AddIndex(
            "task", models.Index(fields=["user", "-enqueued_at"], name="taskstate_task_user")
        ),
    ]
