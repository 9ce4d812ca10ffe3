"""Tasks in Django's admin, as a browser asks for them."""

import datetime

from taskstate.models import Status, Task
from tests.support.factories import make_id

LIST = "/admin/taskstate/task/"
NOON = datetime.datetime(2026, 3, 5, 12, tzinfo=datetime.timezone.utc)


def add(number, status=Status.DONE, **values):
    at = NOON + datetime.timedelta(minutes=number)
    return Task.objects.create(
        **{
            "message_id": make_id(number),
            "status": status,
            "actor_name": "act",
            "queue_name": "q",
            "enqueued_at": at,
            "updated_at": at,
            "stamp": 1,
            "rank": 1,
            **values,
        }
    )


def look(client, query=""):
    response = client.get(LIST + query)
    assert response.status_code == 200
    return response


def ids(client, query=""):
    return [task.message_id.int for task in look(client, query).context["cl"].result_list]


def page(client, number):
    response = client.get(f"{LIST}{make_id(number)}/change/")
    assert response.status_code == 200
    return response.content.decode()


def act(client, action, *numbers, **more):
    data = {"action": action, "_selected_action": [make_id(number) for number in numbers], **more}
    return client.post(LIST, data, follow=True)
