"""The model ``Task`` with its queries, and the time of the last ``clear_tasks``."""

from __future__ import annotations

import datetime
import functools
import uuid
from typing import TYPE_CHECKING, Any, Iterable, Union

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.signals import setting_changed
from django.db import connections, models, router
from django.db.models import Case, F, Q, Value, When
from django.db.models.fields.related_descriptors import ForwardManyToOneDescriptor
from django.utils import timezone

from taskstate import conf, tenants
from taskstate.conf import tasks_database
from taskstate.transitions import sanitize
from taskstate.transitions.status import ACTIVE, FINISHED, Status

__all__ = ["Status", "Task"]

#: The range of a signed 64-bit column, for databases that don't state one.
_BIGINT_RANGE = (-(2**63), 2**63 - 1)

#: Newest first.
ORDERING = ("-enqueued_at",)

#: How long ``for_display`` still includes a finished task after it was seen, in seconds.
SEEN_SECONDS = 30

#: How many keys one statement gets.  SQLite may allow no more than 999 parameters in all.
_KEYS_PER_STATEMENT = 500

#: What stands for a task: its id or the task itself.
TaskId = Union[uuid.UUID, str, "Task"]

#: Finished tasks whose result was not seen yet.  A task that runs again is unseen again.
_UNSEEN = Q(status__in=FINISHED) & (Q(seen_at=None) | Q(seen_at__lt=F("updated_at")))


class TaskQuerySet(models.QuerySet["Task"]):
    """A queryset of tasks."""

    def active(self) -> TaskQuerySet:
        """Return the tasks that are enqueued, delayed or running."""
        return self.filter(status__in=ACTIVE)

    def finished(self) -> TaskQuerySet:
        """Return the tasks that are done, failed or skipped."""
        return self.filter(status__in=FINISHED)

    def for_user(self, user: Any) -> TaskQuerySet:
        """Return the tasks of a user of the current tenant.

        Parameters:
          user: An instance of the user model, or its primary key.  The anonymous user has no tasks.
        """
        pk = getattr(user, "pk", user)
        return self.none() if pk is None else self.for_tenant().filter(user_id=pk)

    def for_tenant(self, tenant: str | None = None) -> TaskQuerySet:
        """Return the tasks of a tenant.

        Parameters:
          tenant(str): The name of the tenant; "" selects the tasks without one.  The default is the
            current tenant, as ``TASKSTATE["TENANT"]`` returns it.  If that can't be determined, no
            task is returned.
        """
        name = tenants.current_tenant() if tenant is None else tenant
        return self.none() if name == tenants.UNKNOWN else self.filter(tenant=name)

    def for_object(self, target: models.Model | type[models.Model]) -> TaskQuerySet:
        """Return the tasks whose ``app_name`` and ``model_name`` name a model.

        Parameters:
          target: The model class or an instance of it.  A task names the model ``Invoice`` by
            ``"Invoice"`` or ``"invoice"``.
        """
        meta = target._meta
        return self.filter(
            app_name=meta.app_label, model_name__in=[meta.object_name, meta.model_name]
        )

    def for_display(self) -> TaskQuerySet:
        """Return the tasks for a page that shows each result once.

        These are the active tasks, the finished tasks that were not seen yet, and those that were
        seen in the last 30 seconds (``mark_seen``).
        """
        recently = timezone.now() - datetime.timedelta(seconds=SEEN_SECONDS)
        return self.filter(Q(status__in=ACTIVE) | _UNSEEN | Q(seen_at__gte=recently))

    def mark_seen(self, ids: Iterable[TaskId]) -> int:
        """Mark the finished tasks of this queryset that have one of these ids as seen.

        A task that is still active is not marked, since its result is still to be shown.  A task
        that was marked before keeps its time.  ``written_at`` stays the same, because the task
        itself has not changed.

        Parameters:
          ids(Iterable): Any number of message ids, as UUIDs or text, or tasks.

        Returns:
          int: How many tasks were marked by this call.

        Raises:
          ValueError: If one of ``ids`` is not an id.  No task is marked then.
          TypeError: If ``ids`` is a single id or task.
        """
        if isinstance(ids, (str, uuid.UUID, Task)):
            raise TypeError(f"mark_seen takes a list of ids, not {ids!r}. Put the id into a list.")
        # Sorted, in the order in which writers lock rows, so that there are no deadlocks.
        keys = sorted({sanitize.to_uuid(each) for each in ids})
        now = timezone.now()
        # updated_at comes from the worker's clock, which may be ahead of this host's. A task must
        # not be seen before it is finished.
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
        """Return all tasks, from ``DRAMATIQ_TASKS_DATABASE`` unless another database was chosen."""
        return TaskQuerySet(self.model, using=self._db or tasks_database())


def _users_database() -> str:
    """Return the alias of the database that users are read from.  Tasks may be in another one."""
    return router.db_for_read(get_user_model())


if TYPE_CHECKING:
    _Descriptor = ForwardManyToOneDescriptor[models.ForeignKey[Any, Any]]
    _ForeignKey = models.ForeignKey[Any, Any]
else:  # At run time they take no type parameters.
    _Descriptor = ForwardManyToOneDescriptor
    _ForeignKey = models.ForeignKey


class _UserDescriptor(_Descriptor):
    """Reads the user of a task from the database of the users.

    By default, Django reads a related object from the database of the instance.  The database of
    the tasks may have no users, or another user with the same key.
    """

    def get_queryset(self, **hints: Any) -> models.QuerySet[Any]:
        """Return all users, which ``task.user`` and ``prefetch_related("user")`` then filter."""
        return super().get_queryset(**hints).using(_users_database())

    def get_prefetch_querysets(self, instances: Any, querysets: Any = None) -> Any:
        """Return what ``Prefetch("user", queryset=...)`` reads.  It comes from the database of the
        users, unless the queryset names another database."""
        if querysets:
            querysets = [_from_users_database(queryset) for queryset in querysets]
        return super().get_prefetch_querysets(instances, querysets)

    def get_prefetch_queryset(self, instances: Any, queryset: Any = None) -> Any:
        """Return the same, for Django before 5.0, which calls this method instead."""
        if queryset is not None:
            queryset = _from_users_database(queryset)
        return super().get_prefetch_queryset(instances, queryset)  # type: ignore[misc]


def _from_users_database(queryset: Any) -> Any:
    return queryset.using(queryset._db or _users_database())


class _UserForeignKey(_ForeignKey):
    """A foreign key to the user model, which may be in another database."""

    forward_related_accessor_class = _UserDescriptor

    def deconstruct(self) -> Any:
        """Name Django's own class in migrations, since the column is the same."""
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.ForeignKey", args, kwargs


class Task(models.Model):
    """The state of one tracked message.

    ``StateMiddleware`` inserts and updates rows.  Besides it, ``mark_seen`` sets ``seen_at``, and
    ``check_tasks`` marks lost tasks as failed.  Each row holds the latest transition of its
    message, by ``stamp`` and ``rank``.  No index has a column that changes, so that PostgreSQL can
    update a row in its own page.
    """

    message_id = models.UUIDField(primary_key=True)
    status = models.CharField(max_length=16, choices=Status.choices)
    attempt = models.PositiveIntegerField(
        default=1, help_text="1 in the first run: Dramatiq's retries + 1."
    )
    actor_name = models.CharField(max_length=sanitize.ACTOR_NAME_LENGTH)
    queue_name = models.CharField(max_length=sanitize.QUEUE_NAME_LENGTH)
    # The user may be in a transaction that is still open, or in another database. There a
    # constraint would make the whole batch fail, and Django would look for the tasks of a deleted
    # user in the wrong database.
    user = _UserForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        related_name="+",
    )
    tenant = models.CharField(
        max_length=sanitize.TENANT_LENGTH,
        blank=True,
        default="",
        help_text='The tenant of the task, on a site with tenants; "?" if it is unknown.',
    )
    description = models.CharField(max_length=sanitize.DESCRIPTION_LENGTH, blank=True, default="")
    model_name = models.CharField(max_length=sanitize.MODEL_NAME_LENGTH, blank=True, default="")
    app_name = models.CharField(max_length=sanitize.APP_NAME_LENGTH, blank=True, default="")
    enqueued_at = models.DateTimeField(
        help_text="The message's own timestamp: when it was created."
    )
    started_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="When the first run began; retries don't change it. Empty if skipped.",
    )
    finished_at = models.DateTimeField(null=True, blank=True)
    updated_at = models.DateTimeField(
        help_text="When the last transition happened. It may have been written later."
    )
    # The following columns can be null, so that processes of an earlier release, which don't know
    # them, can still write rows.
    error = models.CharField(  # noqa: DJ001
        max_length=sanitize.ERROR_LENGTH,
        null=True,
        blank=True,
        help_text="Type and message of the exception that ended the last attempt, kept until the "
        'task is done; "lost" if check_tasks has marked the task as failed.',
    )
    user_error = models.CharField(  # noqa: DJ001
        max_length=sanitize.ERROR_LENGTH,
        null=True,
        blank=True,
        help_text="What the task's user may read about that exception; empty if it was not meant "
        "for users.",
    )
    traceback = models.TextField(  # noqa: DJ001
        null=True,
        blank=True,
        help_text="The traceback of that exception; only its innermost end if it is long.",
    )
    next_attempt_at = models.DateTimeField(
        null=True, blank=True, help_text="When a delayed task is due to run."
    )
    worker = models.CharField(  # noqa: DJ001
        max_length=sanitize.WORKER_LENGTH,
        null=True,
        blank=True,
        help_text="Host and process id of the worker that runs the task or ran it last; empty "
        "while the task waits.",
    )
    progress = models.FloatField(
        null=True, blank=True, help_text="In percent; empty until the task first reports it."
    )
    progress_text = models.CharField(  # noqa: DJ001
        max_length=sanitize.PROGRESS_TEXT_LENGTH, null=True, blank=True
    )
    metadata = models.JSONField(null=True, blank=True)
    result = models.JSONField(null=True, blank=True)
    stored_message = models.TextField(  # noqa: DJ001
        null=True, blank=True, help_text="The encoded message, if KEEP_MESSAGE is on."
    )
    seen_at = models.DateTimeField(
        null=True, blank=True, help_text="When the result was marked as seen."
    )
    written_at = models.BigIntegerField(
        null=True,
        editable=False,
        help_text="When the row was last written: microseconds since 1970, by the database's own "
        "clock. Clients that poll for changes use it as a cursor.",
    )
    stamp = models.BigIntegerField(
        editable=False,
        help_text="When the message was last enqueued, by a hybrid logical clock: milliseconds "
        "since 1970 that increase with each enqueue, even if the clocks of hosts differ.",
    )
    rank = models.BigIntegerField(
        editable=False,
        help_text="The order of transitions with the same stamp. The greatest stamp wins, then the "
        "greatest rank.",
    )

    objects = TaskManager()

    class Meta:
        ordering = list(ORDERING)
        indexes = [
            models.Index(fields=["-enqueued_at"], name="taskstate_task_enqueued_at"),
            models.Index(fields=["tenant", "user", "-enqueued_at"], name="taskstate_task_user"),
            models.Index(fields=["app_name", "model_name"], name="taskstate_task_object"),
        ]

    def __str__(self) -> str:
        return f"{self.title} ({self.get_status_display()})"

    @property
    def title(self) -> str:
        """The description of the task, or else the name of its actor."""
        return self.description or self.actor_name

    @classmethod
    def mark_seen(cls, ids: Iterable[TaskId]) -> int:
        """Mark finished tasks of any user of the current tenant as seen.

        If the ids come from a browser, use ``Task.objects.for_user(user).mark_seen(ids)``.
        """
        return within_tenant(cls.objects.all()).mark_seen(ids)


def within_tenant(tasks: TaskQuerySet, tenant: str | None = None) -> TaskQuerySet:
    """Return those of the tasks that belong to a tenant, by default the current one.  Return all if
    ``TENANT`` is not set."""
    return tasks if conf.TENANT.function is None else tasks.for_tenant(tenant)


class Watermark(models.Model):
    """The time of the last ``clear_tasks``.  Older transitions are no longer written."""

    #: The only row.
    ONLY = 1

    id = models.PositiveSmallIntegerField(primary_key=True, default=ONLY)
    cleared_at = models.BigIntegerField(
        help_text="Microseconds since 1970, by the database's own clock."
    )

    def __str__(self) -> str:
        return f"cleared at {self.cleared_at}"


@functools.lru_cache(maxsize=None)
def user_key() -> sanitize.UserKey:
    """Return the type and range of the user model's primary key."""
    field: Any = Task._meta.get_field("user")
    while field.remote_field is not None:
        field = field.target_field
    connection = connections[tasks_database()]
    smallest: int | None
    greatest: int | None
    try:
        smallest, greatest = connection.ops.integer_field_range(field.get_internal_type())
    except KeyError:  # Not an integer.
        smallest, greatest = None, None
    return sanitize.UserKey(
        to_python=field.to_python,
        smallest=_BIGINT_RANGE[0] if smallest is None else max(smallest, _BIGINT_RANGE[0]),
        greatest=_BIGINT_RANGE[1] if greatest is None else min(greatest, _BIGINT_RANGE[1]),
        max_length=getattr(field, "max_length", None),
        is_integer=isinstance(field, models.IntegerField),
        # The mode NO_AUTO_VALUE_ON_ZERO would allow it, but a hook must not query the server.
        takes_zero=connection.vendor != "mysql" or not isinstance(field, models.AutoField),
        is_uuid=isinstance(field, models.UUIDField),
    )


def user_keys_matching(text: str) -> list[Any]:
    """Return the primary keys of the users that a text stands for, as a username or as a key.

    Usually it is one key.  The list is empty if the text is neither a username nor a valid key.  It
    has two keys if the text is the name of one user and could be the key of another; that of the
    name comes first.  A user with the key may have been deleted, or never have existed.
    """
    model: Any = get_user_model()
    users = model._base_manager.using(_users_database())
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
