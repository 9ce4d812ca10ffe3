"""Which texts of exceptions users read: those that were meant for them, on every way to a task."""

import contextlib
import json
import threading

import django
import dramatiq
import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.db import connections
from django.template import engines
from django.test import AsyncClient, Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils.translation import gettext_lazy
from dramatiq.middleware import Shutdown

import taskstate
from taskstate import UserFacingError, conf
from taskstate.models import Status, Task
from taskstate.stores.selection import open_store
from taskstate.tracking import user_errors
from taskstate.tracking.user_errors import find_user_error
from taskstate.visibility import Viewer
from tests.support import website
from tests.support.brokers import EarlyEncodingBroker
from tests.support.factories import make_id, make_pending, make_transition
from tests.support.harness import InProcessBroker, Workers, make_broker, task_of
from tests.support.limits import LIMIT_SECONDS

#: What no user may read.
SECRET = "Key (username)=(bob) already exists"
FOR_USERS = "The card has expired."


class Expired(UserFacingError):
    """A site may have kinds of its own."""


class Unreadable(UserFacingError):
    def __str__(self):
        raise RuntimeError


@pytest.fixture(autouse=True)
def site(settings):
    website.use(settings)
    settings.TASKSTATE = {}
    user_errors._errors.clear()
    return settings


@pytest.fixture
def people(sqlite):
    model = get_user_model()
    anna = model.objects.create(username="anna")
    boss = model.objects.create(username="boss", is_staff=True, is_superuser=True)
    yield anna, boss
    for user in (anna, boss):
        user.delete()


def by_type(exception):
    """A site's own mapping of exceptions."""
    return FOR_USERS if isinstance(exception, KeyError) else None


def lazily(exception):
    return gettext_lazy("Your tasks")


def failing(exception):
    raise ValueError(exception)


def odd(exception):
    return exception


def ending(exception):
    raise SystemExit


def interrupted(exception):
    raise Shutdown


# What is kept of an exception.


@pytest.mark.parametrize(
    ("exception", "text"),
    [
        (ValueError(SECRET), None),
        (UserFacingError(FOR_USERS), FOR_USERS),
        (Expired("Two\nlines\0 of \ud800text"), "Two lines of text"),
        (Expired("x" * 300), "x" * 254 + "…"),
        (Expired(gettext_lazy("Your tasks")), "Your tasks"),
        (Expired(), None),
        (Unreadable(), None),
    ],
)
def test_the_text_of_a_user_facing_error(exception, text):
    """Of no other exception, and in one line that every database takes."""
    assert find_user_error(exception) == text


def test_a_site_maps_exceptions_itself(site):
    """All but those whose text is for users anyway."""
    site.TASKSTATE = {"USER_ERROR": f"{__name__}.by_type"}

    assert find_user_error(KeyError(SECRET)) == FOR_USERS
    assert find_user_error(ValueError(SECRET)) is None
    assert find_user_error(UserFacingError("Its own")) == "Its own"

    site.TASKSTATE = {"USER_ERROR": lazily}
    assert find_user_error(ValueError(SECRET)) == "Your tasks"


@pytest.mark.parametrize(
    ("function", "record"),
    [
        (failing, "USER_ERROR'] raised ValueError"),
        (ending, "USER_ERROR'] raised ValueError: it raises SystemExit"),
        (odd, "USER_ERROR'] returned a value of type ValueError"),
        ("tests.nowhere.user_error", "can't be imported"),
    ],
)
def test_a_mapping_that_fails_hides_the_text(function, record, site, caplog):
    """That is logged once for each kind."""
    site.TASKSTATE = {"USER_ERROR": function}
    found = []
    # As in a worker: in the main thread a SystemExit goes through.
    thread = threading.Thread(
        target=lambda: found.extend(find_user_error(ValueError(SECRET)) for _ in "ab")
    )
    thread.start()
    thread.join(LIMIT_SECONDS)

    assert found == [None, None]
    (text,) = [each.getMessage() for each in caplog.records]
    assert record in text
    assert "The user reads only that the task failed" in text or "Set it to" in text


def test_an_interrupt_goes_through(site):
    """Dramatiq raises it in the thread; the mapping only happens to run."""
    site.TASKSTATE = {"USER_ERROR": interrupted}
    with pytest.raises(Shutdown):
        find_user_error(ValueError(SECRET))


def test_a_bad_setting_is_reported():
    """The message states what to do."""
    problem = conf.find_problem("USER_ERROR", 7)
    assert "neither a function" in problem.message
    assert "one argument, the exception" in problem.hint


# On its way from the actor to the row.


@pytest.mark.parametrize("kind", [InProcessBroker, EarlyEncodingBroker])
@pytest.mark.parametrize("status", [Status.FAILED, Status.DONE])
def test_what_a_row_holds(kind, status, database):
    """The text of the last attempt alone; nothing of earlier ones, and nothing once it is done."""
    broker = make_broker(broker_class=kind)
    raised = [UserFacingError("The first"), UserFacingError(FOR_USERS)]

    def act(for_state=None):
        if raised:
            raise raised.pop(0)
        if status is Status.FAILED:
            raise ValueError(SECRET)

    message = dramatiq.actor(act, broker=broker, max_retries=2).send(for_state={})
    with Workers(broker) as workers:
        workers.finish()
    task = task_of(message)

    assert task.status == status
    assert task.user_error is None
    assert task.error == (f"ValueError: {SECRET}" if status is Status.FAILED else None)


def test_the_text_of_a_retry_that_waits(database):
    """It stays with the row while the message is delayed, enqueued and running again, and no longer
    than until the next attempt fails."""
    broker = make_broker()
    raised = [UserFacingError(FOR_USERS), ValueError(SECRET)]

    def act(for_state=None):
        if raised:
            raise raised.pop(0)

    actor = dramatiq.actor(act, broker=broker, max_retries=2)
    rows = []

    class Watch(dramatiq.Middleware):
        def before_process_message(self, broker, message):
            assert taskstate.flush(LIMIT_SECONDS)
            row = Task.objects.get(pk=message.message_id)
            rows.append((row.status, row.user_error))
            connections.close_all()

    broker.add_middleware(Watch())
    message = actor.send(for_state={})
    with Workers(broker) as workers:
        workers.finish()

    assert rows == [("running", None), ("running", FOR_USERS), ("running", None)]
    assert task_of(message).user_error is None


def test_options_from_anywhere(sqlite):
    """A message from outside may hold anything there."""
    broker = make_broker()
    actor = dramatiq.actor(lambda for_state=None: 1 / 0, broker=broker, actor_name="act")
    options = {"taskstate_error": "E", "taskstate_user_error": ["x\n\0" * 200], "retries": 99}
    message = actor.message_with_options(kwargs={"for_state": {}}, **options)
    broker.enqueue(message)
    with Workers(broker) as workers:
        workers.finish()

    assert task_of(message).error == "ZeroDivisionError: division by zero"
    assert task_of(message).user_error is None


# From the row to the reader.


def write(status, user, **fields):
    """Write a task as a worker does."""
    details = {"error": f"IntegrityError: {SECRET}", "traceback": SECRET, **fields}
    transition = make_transition(
        status, message_id=make_id(1), user_pk=user.pk, attempt=2, progress_text="mine", **details
    )
    with contextlib.closing(open_store(Task.objects.db, lambda: False)) as store:
        store.write([make_pending(transition)])


def page(client, user):
    return client.get("/tasks/").content.decode()


def task_as_json(client, user):
    return client.get("/tasks/json/", {"id": make_id(1)}).content.decode()


def newest_as_json(client, user):
    return client.get("/tasks/json/").content.decode()


def event(client, user):
    client = AsyncClient()
    client.force_login(user)

    async def read():
        response = await client.get("/tasks/events/", {"id": make_id(1)})
        stream = response.streaming_content.__aiter__()
        chunk = await stream.__anext__()
        await stream.aclose()
        return chunk.decode()

    return async_to_sync(read)()


def tag_of_id(client, user):
    return tag(make_id(1), user)


def tag_of_task(client, user):
    return tag(Task.objects.get(), user)


def tag(task, user):
    request = RequestFactory().get("/")
    request.user = user
    template = engines["django"].from_string("{% load taskstate %}{% task_progress task %}")
    return template.render({"task": task}, request)


ROUTES = [page, task_as_json, newest_as_json, event, tag_of_id, tag_of_task]


def read(route, user):
    if route is event and django.VERSION < (4, 2):
        route = task_as_json  # There are no events.
    client = Client()
    client.force_login(user)
    return route(client, user)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("status", list(Status))
def test_users_read_nothing_else(route, status, people):
    """In no state, by no route; staff read all."""
    anna, boss = people
    write(status, anna)

    assert SECRET not in read(route, anna)
    assert "IntegrityError" not in read(route, anna)
    # The page is that of the user's own tasks.
    Task.objects.update(user=boss)
    is_note = route in {page, tag_of_id, tag_of_task}
    is_shown = not is_note or status in {Status.ENQUEUED, Status.DELAYED, Status.FAILED}
    assert (SECRET in read(route, boss)) is is_shown


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("status", [Status.FAILED, Status.DELAYED, Status.ENQUEUED])
def test_users_read_what_is_meant_for_them(route, status, people):
    """In every state that shows a failure."""
    anna, _ = people
    write(status, anna, user_error=FOR_USERS)
    found = read(route, anna)

    assert FOR_USERS in found
    assert SECRET not in found


def test_users_read_that_a_task_was_lost(people):
    """Its text is ours."""
    anna, _ = people
    write(Status.FAILED, anna, error="lost", traceback=None)

    assert "No update for too long" in read(page, anna)
    (task,) = json.loads(read(task_as_json, anna))["tasks"]
    assert (task["error"], task["note"]) == ("lost", "No update for too long")


@pytest.mark.parametrize("route", [page, newest_as_json])
def test_a_list_takes_no_more_queries(route, people):
    """Neither for the task's user nor for a superuser.  For other staff the permissions are looked
    up, once, if there is an error to show."""
    anna, boss = people
    for user in (anna, boss):
        write(Status.FAILED, user)
        Task.objects.update(user=user)
        client = Client()
        client.force_login(user)
        with CaptureQueriesContext(connections[Task.objects.db]) as queries:
            route(client, user)
        # The user, the clock of the database, and the tasks; JSON looks for what changed first.
        assert len(queries) <= 4, [query["sql"] for query in queries]


def test_permissions_are_looked_up_only_for_an_error(people):
    """A list of tasks without one takes no query for them."""
    anna, _ = people
    write(Status.RUNNING, anna, error=None, traceback=None)
    viewer = Viewer(anna)
    assert viewer.error_of(Task.objects.get()) is None
    assert "is_staff" not in vars(viewer)
