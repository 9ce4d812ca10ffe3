"""Whom an answer is for, and the hints for developers about tasks that are not in it."""

import asyncio
import json
import re
import threading
import time

import django
import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.db import connections
from django.test import AsyncClient, RequestFactory
from django.test.utils import CaptureQueriesContext

from taskstate.models import Status, Task
from taskstate.views import hints
from taskstate.visibility import TaskAccess, Viewer
from tests.support import website
from tests.support.factories import make_id
from tests.support.users import signed_in
from tests.support.views import EVENTS, ask, numbers, write


@pytest.fixture(autouse=True)
def site(settings):
    website.use(settings)


def test_an_answer_has_the_mark_of_its_user(anna, bert):
    """The same at each request of theirs, even if nothing is found."""
    marks = [ask(signed_in(user), *ids).json()["viewer"] for user, *ids in [(anna,), (anna, 1)]]

    assert marks[0] == marks[1]
    assert re.fullmatch("[0-9a-f]{16}", marks[0])
    assert ask(signed_in(bert)).json()["viewer"] != marks[0]


def test_users_of_two_tenants_have_marks_of_their_own(settings):
    """Their keys may be equal. No tenant and key together look like others."""
    model = get_user_model()
    keys = [(7, ""), (7, "blue"), (7, "red"), ('7", "blue', "")]
    marks = {Viewer(model(pk=pk), tenant).mark for pk, tenant in keys}

    assert len(marks) == len(keys)
    assert Viewer(model(pk=7)).mark == Viewer(model(pk="7")).mark


def test_an_unknown_tenant_does_not_look_like_another_user(anna, settings):
    """A page that is open stays as it is until the tenant is known again."""
    settings.TASKSTATE = {"TENANT": f"{__name__}.fail"}
    response = ask(signed_in(anna), 1)

    assert response.json()["viewer"] == ""


def fail():
    raise ConnectionError


def test_a_coroutine_does_not_say_which_tenant_it_is_in(settings):
    """It runs in another thread than the middleware that has entered the tenant's schema."""
    settings.TASKSTATE = {"TENANT": f"{__name__}.tenant_of_thread"}
    request = RequestFactory().get("/")
    request.user = get_user_model()(pk=7)
    _here.tenant = "blue"

    async def view():
        return TaskAccess(request).viewer.mark

    try:
        assert TaskAccess(request).viewer.mark == Viewer(request.user, "blue").mark
        assert asyncio.run(view()) == ""
        settings.TASKSTATE = {}
        assert asyncio.run(view()) == Viewer(request.user).mark
    finally:
        del _here.tenant


@pytest.mark.parametrize("rule", [None, lambda request: Task.objects.all()])
def test_the_tenant_is_asked_once_per_request(rule, anna, settings):
    """An answer is for one tenant, whatever the function says from one call to the next."""
    asked = []
    tenant = lambda: asked.append("") or ""
    settings.TASKSTATE = {"TENANT": tenant, **({"VISIBLE_TASKS": rule} if rule else {})}
    write(1, anna)
    client = signed_in(anna)
    del asked[:]

    assert numbers(ask(client, 1, since="0", mine="1")) == [1]
    assert len(asked) == 1


_here = threading.local()


def tenant_of_thread():
    return getattr(_here, "tenant", "")


def hints_for(user, *ids):
    return ask(signed_in(user), *ids).json().get("hints")


def test_with_debug_an_answer_says_why_a_task_is_missing(anna, bert, settings, database):
    """In one query more, and with nothing that the task itself holds."""
    settings.DEBUG = True
    write(1, anna)
    write(2, bert, description="Secret of Bert")
    write(3, None)
    write(4, anna, tenant="blue")
    client = signed_in(anna)
    with CaptureQueriesContext(connections[database]) as captured:
        response = ask(client, 1, 2, 3, 4, 5)
    queries = [query["sql"] for query in captured if "auth_" not in query["sql"]]

    assert numbers(response) == [1]
    assert response.json()["hints"] == {
        make_id(2): hints.OTHER_USER,
        make_id(3): hints.NO_USER,
        make_id(4): hints.OTHER_TENANT,
        make_id(5): hints.NO_ROW,
    }
    assert "Secret" not in response.content.decode()
    assert "bert" not in response.content.decode()
    assert len(queries) == 3
    assert hints_for(anna, 1) is None
    assert hints_for(anna) is None
    settings.TASKSTATE = {"VISIBLE_TASKS": f"{__name__}.none_of_them"}
    assert hints_for(anna, 1) == {make_id(1): hints.SITE_RULE}


def none_of_them(request):
    return Task.objects.none()


def test_a_task_that_no_worker_takes_has_a_hint(anna, settings):
    """Once a worker has had time for it, and as long as it is enqueued."""
    settings.DEBUG = True
    just_now = int(time.time() * 1000)
    write(1, anna, Status.ENQUEUED, at=just_now)
    write(2, anna, Status.ENQUEUED)
    write(3, anna, Status.RUNNING)

    assert hints_for(anna, 1, 2, 3) == {make_id(2): hints.NO_WORKER}
    settings.DEBUG = False
    assert hints_for(anna, 1, 2, 3) is None


def test_without_debug_there_are_no_hints(anna, bert, settings):
    """Not even whether there is such a task."""
    settings.DEBUG = False
    write(2, bert)
    response = ask(signed_in(anna), 1, 2)

    assert numbers(response) == []
    assert "hints" not in response.json()


def test_rows_without_a_time_of_writing_are_newer_than_the_first_cursor(anna):
    """A page that starts over for another user asks with it."""
    write(1, anna)
    Task.objects.update(written_at=None)

    assert numbers(ask(signed_in(anna), since="0")) == [1]


@pytest.mark.skipif(django.VERSION < (4, 2), reason="Django streams from 4.2")
def test_events_have_the_mark_and_the_hints_of_answers(anna, settings):
    settings.DEBUG = True

    async def read():
        response = await signed_in_anna.get(EVENTS, {"id": make_id(1)})
        stream = response.streaming_content.__aiter__()
        event = (await stream.__anext__()).decode()
        await stream.aclose()
        return json.loads(event.partition("data: ")[2])

    signed_in_anna = signed_in(anna, AsyncClient)
    found = async_to_sync(read)()
    assert found["viewer"] == ask(signed_in(anna)).json()["viewer"]
    assert found["hints"] == {make_id(1): hints.NO_ROW}
