"""The ``Task`` row, its queries, and what ``clear_tasks`` leaves behind."""

from __future__ import annotations

import datetime
import functools
import uuid
from typing import Any, Iterable, Union

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.signals import setting_changed
from django.db import connections, models, router
from django.db.models import Case, F, Q, Value, When
from django.utils import timezone

from . import transitions, values
from .conf import tasks_database
from .transitions import Status

__all__ = ["Status", "Task"]

#: What fits a signed column of 64 bits, for databases that state no range.
_BIGINT_RANGE = (-(2**63), 2**63 - 1)

#: How long a finished task that was seen is still on display, in seconds.
SEEN_SECONDS = 30

#: How many keys one statement is given: SQLite may take no more than 999 parameters in all.
_KEYS_PER_STATEMENT = 500

#: What names a task.
TaskId = Union[uuid.UUID, str, "Task"]

#: Finished, and its result was not seen yet.  What runs again after that is unseen again.
_UNSEEN = Q(status__in=transitions.FINISHED) & (Q(seen_at=None) | Q(seen_at__lt=F("updated_at")))


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

    def for_display(self) -> TaskQuerySet:
        """Tasks for a page that shows each result once: the active ones, the finished ones that
        were not seen yet, and those that were seen in the last 30 seconds (``mark_seen``)."""
        recently = timezone.now() - datetime.timedelta(seconds=SEEN_SECONDS)
        return self.filter(Q(status__in=transitions.ACTIVE) | _UNSEEN | Q(seen_at__gte=recently))

    def mark_seen(self, ids: Iterable[TaskId]) -> int:
        """Note that the results of tasks were shown: those that are among ``self`` and finished.

        A task that is still active is left alone, since its result is still to be shown, and one
        that was marked before keeps its time.  ``written_at`` stays as well: the task itself has
        not changed.

        Parameters:
          ids(Iterable): Message ids, as UUIDs or text, or tasks; any number of them.

        Returns:
          int: How many were marked now.

        Raises:
          ValueError: If one of ``ids`` is no id; nothing is marked then.
          TypeError: If it is a single one.
        """
        if isinstance(ids, (str, uuid.UUID, Task)):
            raise TypeError(f"mark_seen takes a list of ids. Put {ids!r} into one.")
        # Sorted, as those who write tasks lock them, so that none waits for the other in a circle.
        keys = sorted({values.id_of(each) for each in ids})
        now = timezone.now()
        # The clock of the worker, whose time updated_at is, may be ahead of this host's: seen is
        # never before finished.
        finished_later = When(updated_at__gt=now, then=F("updated_at"))
        seen_at = Case(finished_later, default=Value(now), output_field=models.DateTimeField())
        marked = 0
        for start in range(0, len(keys), _KEYS_PER_STATEMENT):
            some = self.filter(_UNSEEN, pk__in=keys[start : start + _KEYS_PER_STATEMENT])
            marked += some.update(seen_at=seen_at)
        return marked


_Manager = models.Manager.from_queryset(TaskQuerySet)


class TaskManager(_Manager["Task"]):
    """Reads from the database that the tasks are written to."""

    def get_queryset(self) -> TaskQuerySet:
        """All tasks, in ``DRAMATIQ_TASKS_DATABASE`` unless a database was asked for."""
        return TaskQuerySet(self.model, using=self._db or tasks_database())


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
        db_index=False,
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
    # From here on null, so that processes of an earlier release, which don't know these, can go on
    # writing.
    error = models.CharField(  # noqa: DJ001
        max_length=values.ERROR_LENGTH,
        null=True,
        blank=True,
        help_text="Type and message of the exception that ended its last attempt; it stays until "
        'the task is done. "lost" if check_tasks has marked it as failed.',
    )
    traceback = models.TextField(  # noqa: DJ001
        null=True, blank=True, help_text="Of that exception; its innermost end if it is long."
    )
    next_attempt_at = models.DateTimeField(
        null=True, blank=True, help_text="When a delayed task is due."
    )
    worker = models.CharField(  # noqa: DJ001
        max_length=values.WORKER_LENGTH,
        null=True,
        blank=True,
        help_text="Host and process id of who runs it or ran it; empty while it waits.",
    )
    progress = models.FloatField(
        null=True, blank=True, help_text="In percent; empty until it is first told."
    )
    progress_text = models.CharField(  # noqa: DJ001
        max_length=values.PROGRESS_TEXT_LENGTH, null=True, blank=True
    )
    metadata = models.JSONField(null=True, blank=True)
    result = models.JSONField(null=True, blank=True)
    stored_message = models.TextField(  # noqa: DJ001
        null=True, blank=True, help_text="The message, encoded, if STORE_MESSAGE is on."
    )
    seen_at = models.DateTimeField(
        null=True, blank=True, help_text="When its result was marked as seen."
    )
    written_at = models.BigIntegerField(
        null=True,
        editable=False,
        help_text="When the row was written last: microseconds since 1970, by the database's own "
        "clock. A cursor for those who follow what changes.",
    )
    rank = models.BigIntegerField(
        editable=False, help_text="Orders the transitions of a message; the greatest wins."
    )

    objects = TaskManager()

    class Meta:
        ordering = ["-enqueued_at"]
        indexes = [
            models.Index(fields=["-enqueued_at"], name="taskstate_task_enqueued_at"),
            models.Index(fields=["user", "-enqueued_at"], name="taskstate_task_user"),
            models.Index(fields=["app_name", "model_name"], name="taskstate_task_object"),
        ]

    def __str__(self) -> str:
        return f"{self.title} ({self.get_status_display()})"

    @property
    def title(self) -> str:
        """What to call it: its description, or the name of its actor."""
        return self.description or self.actor_name

    @classmethod
    def mark_seen(cls, ids: Iterable[TaskId]) -> int:
        """Note that the results of tasks were shown, whoever's they are.  For ids that come from a
        browser: ``Task.objects.for_user(user).mark_seen(ids)``."""
        return cls.objects.mark_seen(ids)


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


def keys_of_users(text: str) -> list[Any]:
    """Return the primary keys of the users that a text names, by their name or by the key itself:
    mostly one, none if there can't be such a user, and two, that of the name first, if the name of
    one is the key of another.  A key may be that of a user who is gone."""
    model: Any = get_user_model()
    users = model._base_manager.using(router.db_for_read(model))
    named = users.filter(**{model.USERNAME_FIELD: text}).order_by()
    keys = list(named.values_list("pk", flat=True)[:1])
    try:
        key = user_key().clean(text)
    except ValueError:
        return keys
    return keys if key in keys else [*keys, key]


def _forget_user_key(*, setting: str, **_: Any) -> None:
    if setting in {"AUTH_USER_MODEL", "DATABASES", "DRAMATIQ_TASKS_DATABASE"}:
        user_key.cache_clear()


setting_changed.connect(_forget_user_key)
