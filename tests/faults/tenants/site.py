"""What the site serves: its tasks, and a view that sends some."""

import dramatiq
from django.contrib import admin
from django.db import connection
from django.http import HttpResponse
from django.template import engines
from django.urls import include, path
from django_tenants.utils import get_public_schema_name
from dramatiq.errors import Retry

from taskstate import current_task_id
from taskstate.models import Task

_put_off = set()


def current_tenant():
    """What TASKSTATE["TENANT"] names: as the documentation has it."""
    schema = connection.schema_name
    return "" if schema == get_public_schema_name() else schema


@dramatiq.actor(max_retries=2)
def work(for_state=None):
    """Put the first run off, if that is asked for: then the message is enqueued by a worker."""
    key = current_task_id()
    if for_state["description"] == "retry" and key not in _put_off:
        _put_off.add(key)
        raise Retry("once", delay=1)


@dramatiq.actor
def parent(user_pk):
    """Send a message from a worker."""
    work.send(for_state={"user_pk": user_pk, "description": "child"})


@dramatiq.actor
def untracked(*args):
    """Be the head of a pipeline."""


def send(request):
    """Send messages in all ways that there are, for the user of this tenant's request."""
    state = {"user_pk": request.user.pk, "description": "first"}
    work.send(for_state=state)
    work.send_with_options(kwargs={"for_state": state}, delay=1)
    work.send(for_state={**state, "description": "retry"})
    parent.send_with_options(args=(request.user.pk,), for_state=state)
    step = work.message_with_options(kwargs={"for_state": state}, pipe_ignore=True)
    dramatiq.pipeline([untracked.message(), step]).run()
    return HttpResponse("sent")


def tag(request):
    """Show whatever task is named."""
    template = engines["django"].from_string("{% load taskstate %}{% task_progress id %}")
    return HttpResponse(template.render({"id": request.GET["id"]}, request))


def for_user(request):
    """List by the query that sites use."""
    keys = Task.objects.for_user(request.user).values_list("pk", flat=True)
    return HttpResponse(" ".join(map(str, keys)))


urlpatterns = [
    path("send/", send),
    path("tag/", tag),
    path("for-user/", for_user),
    path("admin/", admin.site.urls),
    path("tasks/", include("taskstate.urls")),
]
