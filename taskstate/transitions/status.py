"""The statuses of a task, and their groups."""

from __future__ import annotations

from django.db.models import TextChoices
from django.utils.translation import gettext_lazy as _


class Status(TextChoices):
    """The status of a task."""

    ENQUEUED = "enqueued", _("Enqueued")
    DELAYED = "delayed", _("Delayed")
    RUNNING = "running", _("Running")
    DONE = "done", _("Done")
    FAILED = "failed", _("Failed")
    SKIPPED = "skipped", _("Skipped")


WAITING = (Status.ENQUEUED, Status.DELAYED)
ACTIVE = (*WAITING, Status.RUNNING)
FINISHED = (Status.DONE, Status.FAILED, Status.SKIPPED)

#: The error of a task that ``check_tasks`` has marked as failed.
LOST_ERROR = "lost"
