"""``taskstate.urls``: who sees what of which tasks, and what changed since."""

import datetime
import itertools
import uuid

import django
import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import translation

from taskstate.models import Status, Task
from taskstate.views import page, queries
from tests.support import website
from tests.support.factories import START, make_id
from tests.support.html import Page
from tests.support.users import signed_in
from tests.support.views import EVENTS, JSON, PAGE, ask, numbers, write

SECOND = 1_000_000


@pytest.fixture(autouse=True)
def site(settings):
    website.use(settings)


def test_everyone_sees_their_own(anna, bert):
    """By id, by a cursor, and without either; what isn't theirs is as if it weren't there."""
    write(1, anna)
    write(2, bert)
    write(3, None)
    client = signed_in(anna)

    assert numbers(ask(client)) == [1]
    assert numbers(ask(client, 1, 2, 3, 4)) == [1]
    assert numbers(ask(client, since="0")) == [1]
    assert numbers(ask(client, 2, since="0", mine="1")) == [1]
    assert numbers(ask(signed_in(bert))) == [2]


def test_staff_need_the_permission(anna, users, database):
    """The one that lets them see tasks in the admin; it is worth nothing to others."""
    write(1, anna)
    key = ContentType.objects.get_for_model(Task, for_concrete_model=False)
    permission, made = Permission.objects.get_or_create(
        content_type=key, codename="view_task", defaults={"name": "Can view task"}
    )
    staff = users("staff", is_staff=True)
    assert numbers(ask(signed_in(staff), 1)) == []

    staff.user_permissions.add(permission)
    visitor = users("visitor")
    visitor.user_permissions.add(permission)
    boss = users("boss", is_superuser=True)
    for user in (staff, boss):
        client = signed_in(user)
        assert numbers(ask(client, 1)) == numbers(ask(client)) == [1]
        assert numbers(ask(client, since="0")) == [1]
        assert numbers(ask(client, mine="1")) == [], "their page is theirs"
    assert numbers(ask(signed_in(visitor), 1)) == []
    for user in (staff, visitor):
        user.user_permissions.clear()
    if made:
        permission.delete()


@pytest.mark.parametrize("url", [JSON, EVENTS])
def test_who_is_not_signed_in_gets_json(url, database):
    """A script can't do anything with a redirect to a page."""
    response = Client().get(url, {"id": make_id(1)})

    assert response.status_code == 401
    assert response.json() == {"error": "Please sign in."}


@pytest.mark.parametrize("url", [JSON, EVENTS])
def test_an_inactive_user_is_rejected(url, users, settings):
    """Where an authentication backend lets them in at all."""
    settings.AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.AllowAllUsersModelBackend"]
    response = signed_in(users("former", is_active=False)).get(url)

    assert response.status_code == 403
    assert "not active" in response.json()["error"]


def test_an_inactive_user_has_no_page(users, settings):
    """As one who is not signed in."""
    settings.AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.AllowAllUsersModelBackend"]
    response = signed_in(users("former", is_active=False)).get(PAGE)

    assert (response.status_code, response["Location"]) == (302, f"/sign-in/?next={PAGE}")


@pytest.mark.skipif(django.VERSION < (5, 1), reason="The middleware came with Django 5.1")
def test_a_site_that_requires_login_everywhere(settings, database):
    """It leaves the answer for scripts to us."""
    settings.MIDDLEWARE = [
        *settings.MIDDLEWARE,
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
    ]

    assert Client().get(JSON).status_code == 401


def test_the_page_sends_to_the_login(database):
    """And back to itself."""
    response = Client().get(PAGE)

    assert response.status_code == 302
    assert response["Location"] == "/sign-in/?next=/tasks/"


@pytest.mark.parametrize("url", [JSON, EVENTS, PAGE])
def test_nothing_is_stored_by_caches(url, anna):
    """Responses with tasks, rejections and errors alike."""
    client = signed_in(anna)
    answers = [
        client.get(url),
        client.head(url),
        client.post(url),
        client.get(url, {"id": "x", "page": "x"}),
        Client().get(url),
    ]

    assert [answer["Cache-Control"] for answer in answers] == ["private, no-store"] * 5
    for answer in answers:
        assert {"Cookie", "Authorization"} <= set(answer["Vary"].split(", "))
    assert answers[1].content == b""
    assert answers[2].status_code == 405
    assert answers[2]["Allow"] == "GET, HEAD"
    if url != PAGE:
        assert answers[2].json() == {"error": "Method not allowed."}
    assert answers[3].status_code == 400


@pytest.mark.parametrize("url", [JSON, EVENTS])
@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"id": "7"}, "id: '7' is not a UUID"),
        ({"id": ""}, "id: '' is not a UUID"),
        ({"id": ["{" + make_id(1) + "}"]}, "is not a UUID"),
        ({"id": [make_id(n) for n in range(51)]}, "51 ids are too many; use up to 50"),
        ({"since": "yesterday"}, "since: 'yesterday' is not a cursor"),
        ({"since": ""}, "since: '' is not a cursor"),
        ({"since": "-1"}, "is not a cursor"),
        ({"since": str(2**63)}, "is not a cursor"),
        ({"since": "٣"}, "is not a cursor"),
        ({"since": "9" * 10_000}, "is not a cursor"),
    ],
)
def test_bad_parameters_are_named(url, parameters, text, sqlite):
    """With the value, and what would be right."""
    user = get_user_model().objects.create(username="curious")
    response = signed_in(user).get(url, parameters)
    user.delete()

    assert response.status_code == 400
    assert text in response.json()["error"]
    assert len(response.content) < 300


def test_the_fields_of_a_task(anna):
    """Everything that its user needs, and nothing internal."""
    at = datetime.datetime.fromtimestamp(START / 1000, datetime.timezone.utc)
    Task.objects.create(
        message_id=make_id(1),
        status=Status.DELAYED,
        attempt=2,
        actor_name="export",
        queue_name="secret-queue",
        user_id=anna.pk,
        description="Export",
        enqueued_at=at,
        started_at=at,
        updated_at=at,
        next_attempt_at=at + datetime.timedelta(seconds=1),
        error="ValueError: secret",
        user_error="Seven is too many.",
        traceback="secret-traceback",
        worker="secret-worker",
        progress=41.9,
        progress_text="419 of 1000",
        metadata={"secret": "metadata"},
        result=[1, {"url": "/x"}],
        stored_message="secret-message",
        stamp=1,
        rank=1,
    )
    response = ask(signed_in(anna), 1)
    (task,) = response.json()["tasks"]

    assert b"secret" not in response.content
    assert task.pop("note").startswith("Attempt 2 at ")
    # In the time zone of the site.
    assert "3:43" in task.pop("enqueued_label")
    assert task == {
        "id": make_id(1),
        "status": "delayed",
        "status_label": "Delayed",
        "is_finished": False,
        "title": "Export",
        "description": "Export",
        "actor": "export",
        "attempt": 2,
        "progress": 41.9,
        "progress_text": "419 of 1000",
        "percent": "41 %",
        "error": "Seven is too many.",
        "enqueued_at": "2023-11-14T22:13:20.000Z",
        "started_at": "2023-11-14T22:13:20.000Z",
        "finished_at": None,
        "updated_at": "2023-11-14T22:13:20.000Z",
        "next_attempt_at": "2023-11-14T22:13:21.000Z",
        "result": [1, {"url": "/x"}],
    }
    # It may be long: only who asks for this task gets it.
    assert "result" not in ask(signed_in(anna)).json()["tasks"][0]


def test_without_time_zones(anna, settings):
    """Times are as exact where the database holds local ones."""
    settings.USE_TZ = False
    settings.TIME_ZONE = "America/New_York"
    write(1, anna, Status.DONE, enqueued_at=START, at=START + 1500)
    (task,) = ask(signed_in(anna), 1).json()["tasks"]

    assert task["enqueued_at"] == "2023-11-14T22:13:20.000Z"
    assert task["finished_at"] == "2023-11-14T22:13:21.500Z"
    assert "5:13" in task["enqueued_label"]
    assert signed_in(anna).get(PAGE).status_code == 200


def test_a_client_receives_every_change(anna):
    """From cursor to cursor; a change that it has received already may come again."""
    client = signed_in(anna)
    first = ask(client).json()
    write(1, anna, Status.ENQUEUED)
    second = ask(client, since=first["cursor"]).json()
    write(1, anna, Status.DONE)
    third = ask(client, since=second["cursor"]).json()

    assert [task["status"] for task in second["tasks"]] == ["enqueued"]
    assert [task["status"] for task in third["tasks"]] == ["done"]
    assert int(first["cursor"]) <= int(second["cursor"]) <= int(third["cursor"])


@pytest.mark.parametrize(("seconds_late", "found"), [(0, [1]), (9, [1]), (11, []), (None, [])])
def test_a_row_that_is_committed_late(seconds_late, found, anna):
    """It is older than the cursor when it appears, and found within the overlap."""
    client = signed_in(anna)
    cursor = int(ask(client).json()["cursor"])
    write(1, anna)
    late = None if seconds_late is None else cursor - seconds_late * SECOND
    Task.objects.update(written_at=late)

    assert numbers(ask(client, since=str(cursor))) == found
    assert numbers(ask(client, 1, since=str(cursor))) == [1], "asked for by id, it is always sent"


def test_a_cursor_of_the_future(anna):
    """The database's clock was set back: changes are found nevertheless."""
    client = signed_in(anna)
    cursor = int(ask(client).json()["cursor"]) + 3600 * SECOND
    write(1, anna)

    assert numbers(ask(client, since=str(cursor))) == [1]


def test_changes_are_looked_for_in_the_newest(anna, bert, monkeypatch):
    """So that the cost is bounded, however many rows there are; older ones have their ids."""
    monkeypatch.setattr(queries, "NEWEST", 3)
    for number in range(5):
        write(number, anna, enqueued_at=START + number)
        write(number + 10, bert, enqueued_at=START + number)
    client = signed_in(anna)

    assert numbers(ask(client)) == [4, 3, 2]
    assert numbers(ask(client, since="0")) == [4, 3, 2]
    assert numbers(ask(client, 0, since="0")) == [4, 3, 2, 0]


def test_cost_does_not_grow(anna, database):
    """The same few queries for one task and for many, and none that counts or reads tracebacks."""
    client = signed_in(anna)

    def queries(url, *ids, **parameters):
        with CaptureQueriesContext(connections[database]) as captured:
            client.get(url, {"id": [make_id(n) for n in ids], **parameters})
        return [
            query["sql"]
            for query in captured
            if "auth_" not in query["sql"]  # Who asks: the site's own business.
        ]

    write(1, anna)
    asked = [(JSON, (1,), {"since": "0"}), (JSON, (), {}), (PAGE, (), {})]
    few = [queries(url, *ids, **parameters) for url, ids, parameters in asked]
    for number in range(2, 40):
        write(number, anna)
    ids = range(1, 40)
    many = [queries(url, *(ids if few_ids else ()), **p) for url, few_ids, p in asked]

    assert [len(found) for found in few] == [len(found) for found in many] == [4, 2, 2]
    for sql in itertools.chain(*few, *many):
        assert not {"COUNT(", "traceback", "stored_message"} & set(sql.split('"')), sql


def test_texts_are_in_the_language_of_the_reader(anna):
    """Labels are translated when they are read, and not when the process starts."""
    write(1, anna)
    with translation.override("en"):
        assert str(Status.RUNNING.label) == "Running"
    assert isinstance(Status.RUNNING.value, str)
    german = {"HTTP_ACCEPT_LANGUAGE": "de"}
    page_ = Page(signed_in(anna).get(PAGE, **german).content.decode())

    html = page_.find("html")[0][0]
    assert (html["lang"], html["dir"]) == ("de", "ltr")
    assert page_.find("h1") == [({"lang": "en"}, "Your tasks")]


def test_a_page_in_hebrew_goes_from_right_to_left(anna):
    page_ = Page(signed_in(anna).get(PAGE, HTTP_ACCEPT_LANGUAGE="he").content.decode())

    html = page_.find("html")[0][0]
    assert (html["lang"], html["dir"]) == ("he", "rtl")


def test_the_page_shows_the_users_own(anna, bert):
    """Newest first, each with its state, for a browser without a script as well."""
    write(1, anna, enqueued_at=START, description="Export 7")
    write(2, anna, Status.FAILED, enqueued_at=START + 1000, actor_name="mail")
    write(3, bert, description="Of another user")
    response = signed_in(anna).get(PAGE)
    found = Page(response.content.decode())

    rows = [
        (attributes["data-task"], attributes["data-status"])
        for attributes, _ in found.find("task-progress")
        if attributes["data-task"]
    ]
    assert rows == [(make_id(2), "failed"), (make_id(1), "running")]
    titles = [text for _, text in found.find("bdi", data_field="title") if text]
    assert titles == ["mail", "Export 7"]
    ((bar, _),) = found.find("progress", aria_label="Export 7")
    assert "value" not in bar, "its progress is not known"
    assert "Of another user" not in response.content.decode()
    ((list_, _),) = found.find("task-list")
    assert list_["data-url"] == "/tasks/json/?mine=1"
    assert list_["data-viewer"] == ask(signed_in(anna)).json()["viewer"]
    assert list_["data-cursor"].isdigit()
    assert "data-events-url" not in list_, "no stream occupies a worker under WSGI"
    assert found.offences() == []


def test_pages_without_a_count(anna, monkeypatch):
    """One leads to the next and back; new tasks appear on the first alone."""
    monkeypatch.setattr(page, "PAGE_SIZE", 2)
    for number in range(5):
        write(number, anna, enqueued_at=START + number)
    client = signed_in(anna)

    def read(number):
        found = Page(client.get(PAGE, {"page": number}).content.decode())
        tasks = [a["data-task"] for a, _ in found.find("task-progress") if a["data-task"]]
        links = {a["rel"]: a["href"] for a, _ in found.find("a")}
        is_live = "data-cursor" in found.find("task-list")[0][0]
        return [uuid.UUID(task).int for task in tasks], links, is_live

    assert read(1) == ([4, 3], {"next": "?page=2"}, True)
    assert read(2) == ([2, 1], {"prev": "?page=1", "next": "?page=3"}, False)
    assert read(3) == ([0], {"prev": "?page=2"}, False)
    assert read(400)[0] == []
    for wrong in ("0", "401", "-1", "x", "²"):
        assert client.get(PAGE, {"page": wrong}).status_code == 400
