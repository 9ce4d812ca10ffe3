"""The ``Task`` row, its queries, and what ``clear_tasks`` leaves behind."""

from __future__ import annotations

import functools
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed
from django.db import connections, models

from . import transitions, values
from .conf import tasks_database
from .transitions import Status

__all__ = ["Status", "Task"]

#: What fits a signed column of 64 bits, for databases that state no range.
_BIGINT_RANGE = (-(2**63), 2**63 - 1)


class TaskQuerySet(models.QuerySet["Task"]):
    """Tasks, with the questions that sites ask."""

    def active(self) -> TaskQuerySet:
        """Tasks that are enqueued, delayed or running."""
        return self.filter(status__in=transitions.ACTIVE)

    def finished(self) -> TaskQuerySet:
        """Tasks that are done, failed or skipped."""
        return self.filter(status__in=transitions.FINISHED)

    def for_user(self, user: Any) -> TaskQuerySet:
        """Tasks of a user, given as an instance of the user model or as its primary key.  The
        anonymous user has none."""
        pk = getattr(user, "pk", user)
        return self.none() if pk is None else self.filter(user_id=pk)

    def for_object(self, target: models.Model | type[models.Model]) -> TaskQuerySet:
        """Tasks whose ``app_name`` and ``model_name`` name the model of ``target``, an instance
        or a model class.  Both ``"Invoice"`` and ``"invoice"`` name ``Invoice``."""
        meta = target._meta
        return self.filter(
            app_name=meta.app_label, model_name__in=[meta.object_name, meta.model_name]
        )


class TaskManager(models.Manager.from_queryset(TaskQuerySet)):  # type: ignore[misc]
    """Reads from the database that the tasks are written to."""

    def get_queryset(self) -> TaskQuerySet:
        """All tasks, in ``DRAMATIQ_TASKS_DATABASE`` unless a database was asked for."""
        return TaskQuerySet(self.model, using=self._db or tasks_database(), hints=self._hints)


class Task(models.Model):
    """What one tracked message is doing.

    Rows are written by ``StateMiddleware`` alone.  Each holds the newest transition of its
    message, by ``rank``; no column that changes is part of an index, so that PostgreSQL can
    update a row in its own page.
    """

    message_id = models.UUIDField(primary_key=True)
    status = models.CharField(max_length=16, choices=Status.choices)
    attempt = models.PositiveIntegerField(
        default=0, help_text="How many runs came before this one: Dramatiq's retries."
    )
    actor_name = models.CharField(max_length=values.ACTOR_NAME_LENGTH)
    queue_name = models.CharField(max_length=values.QUEUE_NAME_LENGTH)
    # The user may be in a transaction that is still open, or in another database: a constraint
    # would fail the whole batch, and a delete would look for tasks in the wrong place.
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        related_name="+",
    )
    description = models.CharField(max_length=values.DESCRIPTION_LENGTH, blank=True, default="")
    model_name = models.CharField(max_length=values.MODEL_NAME_LENGTH, blank=True, default="")
    app_name = models.CharField(max_length=values.APP_NAME_LENGTH, blank=True, default="")
    enqueued_at = models.DateTimeField(help_text="The message's own timestamp.")
    started_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="When its first run began; a retry keeps it. Empty if skipped.",
    )
    finished_at = models.DateTimeField(null=True, blank=True)
    updated_at = models.DateTimeField(
        help_text="When its last transition happened, not when that was written."
    )
    # Null, so that processes of an earlier release, which don't know it, can go on writing.
    error = models.CharField(  # noqa: DJ001
        max_length=values.ERROR_LENGTH,
        null=True,
        blank=True,
        help_text='"lost" if check_tasks has marked it as failed, else empty.',
    )
    rank = models.BigIntegerField(
        editable=False, help_text="Orders the transitions of a message; the greatest wins."
    )

    objects = TaskManager()

    class Meta:
        ordering = ["-enqueued_at"]
        indexes = [
            models.Index(fields=["-enqueued_at"], name="taskstate_task_enqueued_at"),
            models.Index(fields=["app_name", "model_name"], name="taskstate_task_object"),
        ]

    def __str__(self) -> str:
        return f"{self.description or self.actor_name} ({self.get_status_display()})"


class Watermark(models.Model):
    """When ``clear_tasks`` last ran: transitions older than that are not written any more."""

    #: The only row.
    ONLY = 1

    id = models.PositiveSmallIntegerField(primary_key=True, default=ONLY)
    cleared_at = models.BigIntegerField(
        help_text="Microseconds since 1970, by the database's own clock."
    )

    def __str__(self) -> str:
        return f"cleared at {self.cleared_at}"


@functools.lru_cache(maxsize=None)
def user_key() -> values.UserKey:
    """Return what the user model's primary key can take."""
    field: Any = Task._meta.get_field("user")
    while field.remote_field is not None:
        field = field.target_field
    operations = connections[tasks_database()].ops
    smallest: int | None
    greatest: int | None
    try:
        smallest, greatest = operations.integer_field_range(field.get_internal_type())
    except KeyError:  # Not an integer.
        smallest, greatest = None, None
    return values.UserKey(
        to_python=field.to_python,
        smallest=_BIGINT_RANGE[0] if smallest is None else max(smallest, _BIGINT_RANGE[0]),
        greatest=_BIGINT_RANGE[1] if greatest is None else min(greatest, _BIGINT_RANGE[1]),
        max_length=getattr(field, "max_length", None),
        is_integer=isinstance(field, models.IntegerField),
    )


def _forget_user_key(*, setting: str, **_: Any) -> None:
    if setting in {"AUTH_USER_MODEL", "DATABASES", "DRAMATIQ_TASKS_DATABASE"}:
        user_key.cache_clear()


setting_changed.connect(_forget_user_key)
