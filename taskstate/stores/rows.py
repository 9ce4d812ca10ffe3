"""The row that a fact makes, for the stores that hand Django's ORM a ``Task``, and for signals."""

from __future__ import annotations

import datetime
import functools
import json
import os
import socket
import uuid

from django.conf import settings
from django.utils import timezone

from .. import values
from ..models import Task
from ..transitions import FINISHED, NO_EXTRAS, WAITING, Transition

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
_MILLISECOND = datetime.timedelta(milliseconds=1)


def as_datetime(milliseconds: int) -> datetime.datetime:
    """Return a time as ``DateTimeField`` wants it: naive where ``USE_TZ`` is off."""
    aware = _EPOCH + milliseconds * _MILLISECOND
    if settings.USE_TZ:
        return aware
    return timezone.make_naive(aware, timezone.get_default_timezone())


def worker_name() -> str:
    """Return what names this process: it tells of no runs but its own."""
    return _worker_name(os.getpid())


@functools.lru_cache(maxsize=1)
def _worker_name(pid: int) -> str:
    suffix = f":{pid}"
    host = values.clean_text(socket.gethostname(), values.WORKER_LENGTH - len(suffix))
    return host + suffix


def task_of(fact: Transition, alias: str) -> Task:
    """Return the row that ``fact`` makes in the database ``alias``, but for ``written_at``."""
    fields = fact.fields
    extras = fact.extras or NO_EXTRAS
    due = extras.next_attempt_at
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
        worker=None if fact.status in WAITING else worker_name(),
        progress=extras.progress,
        progress_text=extras.progress_text,
        error=extras.error,
        traceback=extras.traceback,
        next_attempt_at=None if due is None else as_datetime(due),
        result=_loaded(extras.result),
        metadata=_loaded(fields.metadata),
        stored_message=fields.stored_message,
    )
    task._state.adding = False
    task._state.db = alias
    return task


def _loaded(text: str | None) -> object:
    return None if text is None else json.loads(text)
