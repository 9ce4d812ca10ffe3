"""Hints for developers: why a task is missing in a response, or stays enqueued.

Responses have them only with ``DEBUG``.
"""

from __future__ import annotations

import datetime
from typing import Iterable
from uuid import UUID

from django.utils import timezone

from taskstate import conf
from taskstate.models import Status, Task
from taskstate.visibility import Viewer

NO_ROW = (
    "This task has no row yet. Check that its message was sent with for_state, that "
    "StateMiddleware is in the middleware of its broker, and that a worker runs. The row is "
    "written at the next flush of the process that sent the message, or of the worker."
)
OTHER_TENANT = (
    "This task belongs to another tenant, or TASKSTATE['TENANT'] failed where its message was sent."
)
SITE_RULE = "TASKSTATE['VISIBLE_TASKS'] does not show this task to this user."
NO_USER = (
    "This task has no user, so only staff with the permission taskstate.view_task see it. Send its "
    "message with the user's key: for_state={'user_pk': user.pk}."
)
OTHER_USER = "This task belongs to another user."
NO_WORKER = (
    "No worker has started this task. Check that a worker reads its queue, and that the worker was "
    "restarted after the actor was added."
)
#: A task that stays enqueued for longer than this gets a hint.
PATIENCE = datetime.timedelta(seconds=10)


def find_hints(missing: Iterable[UUID], viewer: Viewer) -> dict[str, str]:
    """Return a hint for each id that a response has no task for.  It takes one query.

    No hint reveals anything that the task itself holds.
    """
    found = {str(pk): NO_ROW for pk in missing}
    rows = Task.objects.filter(pk__in=list(found)).values_list("pk", "user_id", "tenant")
    for pk, user_pk, tenant in rows:
        hint = _hint_for_row(user_pk, tenant, viewer)
        if hint:
            found[str(pk)] = hint
        else:  # The row was written after the response had been read.
            del found[str(pk)]
    return found


def is_late(task: Task) -> bool:
    """Return whether a task has been enqueued for so long that a worker should have started it."""
    return task.status == Status.ENQUEUED and timezone.now() - task.updated_at > PATIENCE


def _hint_for_row(user_pk: object, tenant: str, viewer: Viewer) -> str:
    """Return why a viewer doesn't see a row; "" if nothing hides it."""
    if tenant != viewer.tenant:
        return OTHER_TENANT
    if conf.VISIBLE_TASKS.function is not None:
        return SITE_RULE
    if user_pk is None:
        return NO_USER
    return "" if str(user_pk) == str(viewer.user_pk) else OTHER_USER
