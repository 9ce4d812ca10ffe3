"""The row that a fact makes, for the stores that hand Django's ORM a ``Task``, and for signals."""

from __future__ import annotations

import datetime
import uuid

from django.conf import settings
from django.utils import timezone

from ..models import Task
from ..transitions import FINISHED, Transition

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
_MILLISECOND = datetime.timedelta(milliseconds=1)


def as_datetime(milliseconds: int) -> datetime.datetime:
    """Return a time as ``DateTimeField`` wants it: naive where ``USE_TZ`` is off."""
    aware = _EPOCH + milliseconds * _MILLISECOND
    if settings.USE_TZ:
        return aware
    return timezone.make_naive(aware, timezone.get_default_timezone())


def task_of(fact: Transition, alias: str) -> Task:
    """Return the row that ``fact`` makes in the database ``alias``."""
    fields = fact.fields
    updated_at = as_datetime(fact.time)
    task = Task(
        message_id=uuid.UUID(fact.message_id),
        status=fact.status.value,
        attempt=fact.attempt,
        actor_name=fields.actor_name,
        queue_name=fields.queue_name,
        user_id=fields.user_pk,  # type: ignore[misc]  # a user model's key may be a UUID
        description=fields.description,
        model_name=fields.model_name,
        app_name=fields.app_name,
        enqueued_at=as_datetime(fields.enqueued_at),
        started_at=None if fact.started_at is None else as_datetime(fact.started_at),
        finished_at=updated_at if fact.status in FINISHED else None,
        updated_at=updated_at,
        rank=fact.rank,
    )
    task._state.adding = False
    task._state.db = alias
    return task
