"""Requests to ``taskstate.urls``, and tasks to ask for."""

import uuid

from taskstate.models import Status, Task
from taskstate.stores.selection import open_store
from tests.support.factories import make_id, make_pending, make_transition

JSON, EVENTS, PAGE = "/tasks/json/", "/tasks/events/", "/tasks/"


def write(number, user, status=Status.RUNNING, stamp=1, **fields):
    """Write a task as a worker does."""
    transition = make_transition(
        status, stamp=stamp, message_id=make_id(number), user_pk=user and user.pk, **fields
    )
    with_store = open_store(Task.objects.db, lambda: False)
    with_store.write([make_pending(transition)])
    with_store.close()


def numbers(response):
    assert response.status_code == 200
    return [uuid.UUID(task["id"]).int for task in response.json()["tasks"]]


def ask(client, *ids, **parameters):
    return client.get(JSON, {"id": [make_id(n) for n in ids], **parameters})
