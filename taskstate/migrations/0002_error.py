"""``error``: why a task failed, where that is known."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """Null for the rows that are there, so that no table is rewritten."""

    dependencies = [("taskstate", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="task",
            name="error",
            field=models.CharField(
                blank=True,
                help_text='"lost" if check_tasks has marked it as failed, else empty.',
                max_length=255,
                null=True,
            ),
        ),
    ]
