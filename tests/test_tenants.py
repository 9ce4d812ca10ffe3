"""Sites with tenants: a user sees nothing of a user of another tenant who has the same key."""

import asyncio
import contextlib
import itertools
import logging
import re
import time

import dramatiq
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.template import engines
from django.test import AsyncClient, Client, RequestFactory
from dramatiq import middleware as dm

from taskstate import resend, tenants
from taskstate.models import Status, Task
from taskstate.stores.orm import OrmStore
from taskstate.views import events
from tests.support import two_tenants
from tests.support.brokers import EarlyEncodingBroker
from tests.support.factories import make_id, make_pending, make_transition
from tests.support.harness import InProcessBroker, Workers, make_broker, task_of
from tests.support.limits import LIMIT_SECONDS
from tests.support.resending import stored, use_broker
from tests.support.streams import aiter_of, needs_streams, next_event
from tests.support.two_tenants import tenant

PLACES = ("a", "b", "")
#: The number of the task that a user has in each place; the last one is of a tenant that is not
#: known.
OWN = {"a": 1, "b": 2, "": 3, "?": 4}
#: Those of another user.
OTHERS = {"a": 11, "b": 12, "": 13, "?": 14}
EVERY_ID = [make_id(number) for number in (*OWN.values(), *OTHERS.values())]
JSON, EVENTS, PAGE, LIST = "/tasks/json/", "/tasks/events/", "/tasks/", "/admin/taskstate/task/"


@pytest.fixture(autouse=True)
def site(settings):
    two_tenants.use(settings)
    forget_what_was_logged()
    yield settings
    forget_what_was_logged()


def forget_what_was_logged():
    tenants._errors.clear()
    tenants._warnings._logged.clear()


@pytest.fixture
def people(sqlite):
    """Two users with the same keys everywhere, one who may do nothing special and a superuser; and
    their tasks in every tenant."""
    with contextlib.contextmanager(make_people)() as made:
        yield made


@pytest.fixture
def people_everywhere(database):
    """The same with the tasks in a database of each kind."""
    with contextlib.contextmanager(make_people)() as made:
        yield made


def make_people():
    model = get_user_model()
    anna = model.objects.create(username="anna")
    boss = model.objects.create_superuser("boss")
    for user, numbers in ((anna, OWN), (boss, OTHERS)):
        for place, number in numbers.items():
            write(number, user, place)
    yield anna, boss
    LogEntry.objects.all().delete()
    model.objects.all().delete()


def write(number, user, place, status=Status.FAILED, at=1, **fields):
    transition = make_transition(
        status, stamp=at, message_id=make_id(number), user_pk=user.pk, tenant=place, **fields
    )
    store = OrmStore()
    store.write([make_pending(transition)])
    store.close()


def browser(user, place, client_class=Client):
    # Not as a header of the client, which an AsyncClient takes in another way.
    client = client_class(**({"HTTP_X_TENANT": place} if client_class is Client else {}))
    client.force_login(user)
    return client


def numbers_in(html):
    """The tasks whose ids are anywhere in a text."""
    return {int(text.replace("-", ""), 16) for text in re.findall(r"0{8}-[-0-9a-f]{27}", html)}


def get(client, url, **parameters):
    response = client.get(url, parameters)
    return numbers_in(response.content.decode()) if response.status_code == 200 else set()


def page_of_each(client, url):
    found = set()
    for number in (*OWN.values(), *OTHERS.values()):
        response = client.get(url.format(make_id(number)))
        # Where there is no such task the admin sends to its index, with a message.
        found |= {number} if response.status_code == 200 else set()
    return found


ROUTES = {
    "page": lambda client: get(client, PAGE),
    "newest": lambda client: get(client, JSON),
    "by id": lambda client: get(client, JSON, id=EVERY_ID),
    "changes": lambda client: get(client, JSON, since="0"),
    "mine": lambda client: get(client, JSON, since="0", mine="1"),
}
ADMIN_ROUTES = {
    "list": lambda client: listed(client, all=""),
    "a user's": lambda client: listed(client, user="anna") | listed(client, user="boss"),
    "search": lambda client: listed(client, q="actor"),
    "by id": lambda client: {number for id_ in EVERY_ID for number in listed(client, q=id_)},
    "task": lambda client: page_of_each(client, LIST + "{}/change/"),
    "delete": lambda client: page_of_each(client, LIST + "{}/delete/"),
    "history": lambda client: page_of_each(client, LIST + "{}/history/"),
}


def listed(client, **parameters):
    return ids(client.get(LIST, parameters).context["cl"].result_list)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("route", ROUTES)
def test_a_user_sees_their_tasks_of_this_tenant(route, place, people):
    """By every URL; what has an unknown tenant is shown nowhere."""
    anna, _ = people

    assert ROUTES[route](browser(anna, place)) == {OWN[place]}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("route", ROUTES)
def test_staff_see_all_tasks_of_this_tenant(route, place, people):
    """A superuser is one of this tenant alone."""
    _, boss = people
    own = {OTHERS[place]}
    seen = own if route in {"page", "mine"} else {OWN[place], *own}

    assert ROUTES[route](browser(boss, place)) == seen


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("route", ADMIN_ROUTES)
def test_the_admin_is_that_of_this_tenant(route, place, people):
    """By every page of it."""
    _, boss = people

    assert ADMIN_ROUTES[route](browser(boss, place)) == {OWN[place], OTHERS[place]}


def test_what_other_models_choose_from(people):
    """The admin's autocompletion, and all else that asks the admin of tasks."""
    _, boss = people
    request = RequestFactory().get("/")
    request.user = boss
    with tenant("a"):
        found = admin.site._registry[Task].get_queryset(request)

    assert {task.message_id.int for task in found} == {OWN["a"], OTHERS["a"]}


@pytest.mark.parametrize("place", PLACES)
def test_an_action_reaches_no_other_tenant(place, people):
    """Whatever ids the browser sends."""
    _, boss = people
    data = {"action": "delete_selected", "_selected_action": EVERY_ID, "post": "yes"}
    response = browser(boss, place).post(LIST, data)

    assert response.status_code == 302
    left = {task.message_id.int for task in Task.objects.all()}
    assert left == {*OWN.values(), *OTHERS.values()} - {OWN[place], OTHERS[place]}


def test_resend_in_the_admin(people):
    """It reaches no other tenant, and the new task is of the same tenant as the first one."""
    anna, boss = people
    for place, number in OWN.items():
        text = stored(message_id=make_id(number), kwargs={"for_state": {"user_pk": anna.pk}})
        write(number, anna, place, at=2, stored_message=text)
    for broker in use_broker(dramatiq.brokers.stub.StubBroker()):
        data = {"action": "resend", "_selected_action": [make_id(n) for n in OWN.values()]}
        response = browser(boss, "a").post(LIST, data)
        with Workers(broker) as workers:
            workers.finish("q")

    assert response.status_code == 302
    (sent,) = Task.objects.exclude(pk__in=EVERY_ID)
    assert (sent.tenant, sent.status) == ("a", "done")


@needs_streams
@pytest.mark.parametrize("place", PLACES)
def test_events_stay_in_the_tenant_of_their_request(place, people, monkeypatch):
    """Though the middleware has left the tenant when the stream begins."""
    monkeypatch.setattr(events, "INTERVAL_SECONDS", 0.01)
    anna, _ = people
    client = browser(anna, place, AsyncClient)

    async def read():
        path = f"{EVENTS}?since=0&" + "&".join(f"id={id_}" for id_ in EVERY_ID)
        response = await client.get(path, X_TENANT=place)
        stream = aiter_of(response)
        received = [await asyncio.wait_for(next_event(stream), LIMIT_SECONDS)]
        for other, number in OWN.items():
            if other != place:
                await sync_to_async(write)(number, anna, other, at=2)
        await sync_to_async(write)(OWN[place], anna, place, Status.DONE, at=2)
        received.append(await asyncio.wait_for(next_event(stream), LIMIT_SECONDS))
        await stream.aclose()
        return received

    received = [
        [(numbers_in(task["id"]), task["status"]) for task in found["tasks"]]
        for _, found in async_to_sync(read)()
    ]
    assert received == [[({OWN[place]}, "failed")], [({OWN[place]}, "done")]]


@pytest.mark.parametrize("place", PLACES)
def test_the_tag_shows_what_the_request_may_see(place, people):
    """Of any other id it shows what it shows where there is no row."""
    anna, _ = people
    request = RequestFactory().get("/")
    request.user = anna
    template = engines["django"].from_string("{% load taskstate %}{% task_progress id %}")
    with tenant(place):
        shown = {
            number
            for number in (*OWN.values(), *OTHERS.values())
            if 'data-status="failed"' in template.render({"id": make_id(number)}, request)
        }

    assert shown == {OWN[place]}


@pytest.mark.parametrize("place", PLACES)
def test_queries_without_a_request(place, people_everywhere):
    """``for_user``, ``for_tenant`` and ``mark_seen`` are about the present tenant."""
    anna, _ = people_everywhere
    with tenant(place):
        assert ids(Task.objects.for_user(anna)) == ids(Task.objects.for_user(anna.pk))
        assert ids(Task.objects.for_user(anna)) == {OWN[place]}
        assert ids(Task.objects.for_tenant()) == {OWN[place], OTHERS[place]}
        assert Task.objects.for_user(anna).mark_seen(EVERY_ID) == 1
        assert Task.mark_seen(EVERY_ID) == 1
        assert ids(Task.objects.exclude(seen_at=None)) == {OWN[place], OTHERS[place]}
    assert ids(Task.objects.for_tenant("b")) == {OWN["b"], OTHERS["b"]}


def ids(tasks):
    return {task.message_id.int for task in tasks}


def test_names_of_tenants_are_compared_exactly(people_everywhere):
    """By letters and accents, whatever the collation of the database."""
    anna, _ = people_everywhere
    names = ("acme", "Acme", "acmé", "\uff41cme")
    for number, name in enumerate(names, 100):
        write(number, anna, name)

    for number, name in enumerate(names, 100):
        with tenant(name):
            assert ids(Task.objects.for_user(anna)) == {number}


def fail():
    raise RuntimeError("no request")


BAD = [fail, lambda: None, lambda: 7, lambda: "x" * 101, lambda: "a ", lambda: "a\0", lambda: "?"]


@pytest.mark.parametrize("function", BAD)
def test_a_tenant_that_is_not_known_shows_nothing(function, people, site, caplog):
    """Neither to users nor to staff; that is logged once."""
    site.TASKSTATE = {"TENANT": function}
    for user in people:
        for routes in (ROUTES, ADMIN_ROUTES):
            for route in routes.values():
                if user.is_superuser or routes is ROUTES:
                    assert route(browser(user, "a")) == set()

    records = [record for record in caplog.records if record.name == "taskstate.tenants"]
    assert len(records) == (0 if function is BAD[-1] else 1)


# Where the tenant comes from.


@pytest.fixture
def broker(sqlite, site):
    broker = make_broker()
    yield broker
    broker.close()


def declare(broker, function=lambda *args, **kwargs: None, name="act", **options):
    return dramatiq.actor(function, broker=broker, actor_name=name, **options)


def work(broker):
    with Workers(broker) as workers:
        workers.finish()


def test_the_sender_names_the_tenant(database, site):
    """In every database and by every store; the message carries it through retries and delays."""
    broker = make_broker()
    tries = itertools.count()

    def fail_twice(for_state):
        if next(tries) < 2:
            raise ValueError

    actor = declare(broker, fail_twice)
    with tenant("a"):
        first = actor.send_with_options(kwargs={"for_state": {}}, delay=1)
    with tenant("b"):
        second = actor.send(for_state={})
    third = actor.send(for_state={})
    work(broker)
    broker.close()

    tasks = [task_of(message) for message in (first, second, third)]
    assert [(task.tenant, task.status) for task in tasks] == [
        ("a", "done"),
        ("b", "done"),
        ("", "done"),
    ]
    assert sum(task.attempt for task in tasks) == 3 + 2


def test_what_an_actor_sends_is_of_its_tenant(broker):
    """Unless there is another tenant at that moment."""
    sent = []

    def parent(for_state):
        sent.append(child.send(for_state={}))
        with tenant("b"):
            sent.append(child.send(for_state={}))

    child, parent = declare(broker, name="child"), declare(broker, parent, name="parent")
    with tenant("a"):
        parent.send(for_state={})
    work(broker)

    assert [task_of(message).tenant for message in sent] == ["a", "b"]


@pytest.mark.parametrize("tracked", [True, False])
def test_all_of_a_pipeline_is_of_one_tenant(tracked, broker):
    """Even if its first messages aren't tracked: a worker enqueues the others."""
    actor = declare(broker)
    state = {"for_state": {}}
    head = actor.message_with_options(kwargs=state if tracked else {})
    messages = [head, actor.message(), actor.message_with_options(kwargs=state)]
    with tenant("a"):
        dramatiq.pipeline(messages, broker=broker).run()
    work(broker)

    assert task_of(messages[-1]).tenant == "a"


@pytest.mark.filterwarnings("ignore:.*Backend is not available")
def test_the_callback_of_a_group_is_of_its_tenant(broker):
    """Which a worker enqueues as well."""
    # Here, since older releases warn of the backends that can't be had.
    from dramatiq.rate_limits.backends import StubBackend

    barrier = dm.GroupCallbacks(StubBackend())
    broker.add_middleware(barrier)
    actor = declare(broker)
    group = dramatiq.group([actor.message(), actor.message()], broker=broker)
    callback = actor.message_with_options(kwargs={"for_state": {}})
    group.add_completion_callback(callback)
    with tenant("a"):
        group.run()
    work(broker)

    assert [task.tenant for task in Task.objects.all()] == ["a"]


if hasattr(dm, "AsyncIO"):

    def test_what_a_coroutine_sends_is_of_its_tenant(broker):
        """It runs in the thread of an event loop."""
        broker.add_middleware(dm.AsyncIO())
        sent = []
        child = declare(broker, name="child")

        async def parent(for_state):
            sent.append(child.send(for_state={}))

        with tenant("a"):
            declare(broker, parent, name="parent").send(for_state={})
        work(broker)

        assert [task_of(message).tenant for message in sent] == ["a"]


def test_a_run_hands_on_nothing_once_it_is_over(broker):
    """What a message sends that isn't tracked is of no tenant, in the same thread as well."""
    sent = []
    child = declare(broker, name="child")
    tracked = declare(broker, name="tracked")
    parent = declare(broker, lambda: sent.append(child.send(for_state={})), name="parent")
    with tenant("a"):
        first = tracked.send(for_state={})
    parent.send()
    with Workers(broker, threads=1) as workers:
        workers.finish()

    assert (task_of(first).tenant, task_of(sent[0]).tenant) == ("a", "")


@pytest.mark.parametrize("delay", [None, 1])
@pytest.mark.parametrize("kind", [InProcessBroker, EarlyEncodingBroker])
def test_a_message_without_a_tenant_is_shown_to_no_one(kind, delay, sqlite, site, caplog):
    """It was sent before ``TENANT`` was set, or encoded too early: whose it is can't be known."""
    broker = make_broker(broker_class=kind)
    actor = declare(broker)
    settings = site.TASKSTATE
    if kind is InProcessBroker:
        site.TASKSTATE = {}
    with tenant("a"):
        messages = [
            actor.send_with_options(kwargs={"for_state": {}}, delay=delay) for _ in range(2)
        ]
    site.TASKSTATE = settings
    with caplog.at_level(logging.WARNING, "taskstate.tenants"):
        work(broker)
    broker.close()

    assert [task_of(message).tenant for message in messages] == ["?", "?"]
    (text,) = [record.message for record in caplog.records if "tenant" in record.message]
    assert "A message of actor act came without a tenant" in text


@pytest.mark.parametrize("kind", [InProcessBroker, EarlyEncodingBroker])
def test_a_worker_may_know_the_tenant(kind, sqlite, site):
    """A middleware of the site may find it out before ours asks."""

    class Place(dramatiq.Middleware):
        def before_process_message(self, broker, message):
            two_tenants._present.set("b")

    broker = make_broker(Place(), broker_class=kind)
    actor = declare(broker)
    settings = site.TASKSTATE
    site.TASKSTATE = {}
    message = actor.send(for_state={})
    site.TASKSTATE = settings
    work(broker)
    broker.close()

    assert task_of(message).tenant == "b"


@pytest.mark.parametrize("value", [None, 7, ["a"], "x" * 101, " a", "?", "a\ud800"])
def test_a_message_with_an_invalid_tenant_is_shown_to_no_one(value, broker):
    """Its options may come from anywhere."""
    actor = declare(broker)
    message = actor.message_with_options(kwargs={"for_state": {}}, taskstate_tenant=value)
    proxy = dramatiq.broker.MessageProxy(message)
    broker.emit_before("process_message", proxy)
    broker.emit_after("process_message", proxy)
    broker.emit_before("ack", proxy)
    with Workers(broker) as workers:
        workers.finish()

    assert task_of(message).tenant == "?"


@pytest.mark.parametrize(
    "function", [*BAD, "tests.nowhere.present", "tests.support.two_tenants.SETTINGS"]
)
def test_a_function_that_fails_breaks_no_message(function, broker, site, caplog):
    """The task is tracked, and shown to no user; one record states why."""
    site.TASKSTATE = {"TENANT": function}
    actor = declare(broker)
    messages = [actor.send(for_state={}) for _ in range(3)]
    work(broker)

    assert [task_of(message).status for message in messages] == ["done"] * 3
    assert [task_of(message).tenant for message in messages] == ["?"] * 3
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(records) == (0 if function is BAD[-1] else 1)
    if isinstance(function, str):
        assert repr(function) in records[0].message
        assert "'mysite.tenants.current_tenant'" in records[0].message


def test_a_task_is_sent_again_for_its_tenant(sqlite, site):
    """Wherever that is done, and whatever the present tenant is."""
    for broker in use_broker(dramatiq.brokers.stub.StubBroker()):
        for place in OWN:
            task = failed_task(tenant=place)
            with tenant("b"):
                message = resend(task)
            assert message.options["taskstate_tenant"] == place
        site.TASKSTATE = {}
        assert "taskstate_tenant" not in resend(failed_task()).options
        with Workers(broker) as workers:
            workers.finish("q")


def failed_task(**fields):
    return Task(message_id=make_id(), status="failed", stamp=1, stored_message=stored(), **fields)


def test_without_tenants_nothing_is_added(broker, site):
    """No option of a message, and no condition of a query but the one for its index."""
    site.TASKSTATE = {}
    actor = declare(broker)
    with tenant("a"):
        message = actor.send(for_state={"user_pk": 7})
    work(broker)

    assert "taskstate_tenant" not in message.options
    assert task_of(message).tenant == ""
    assert [task.pk for task in Task.objects.for_user(7)] == [task_of(message).pk]


# VISIBLE_TASKS.


def visible_by_id(request):
    """A rule of a site: for the test, the tasks whose numbers the request names."""
    ids = [make_id(int(number)) for number in request.META["HTTP_X_SEES"].split(",")]
    return Task.objects.filter(pk__in=ids)


def team_browser(user, place, sees):
    client = Client(HTTP_X_TENANT=place, HTTP_X_SEES=",".join(map(str, sees)))
    client.force_login(user)
    return client


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("route", [*ROUTES, *ADMIN_ROUTES])
def test_a_rule_of_the_site_within_the_tenant(route, place, people, site):
    """It decides for pages, JSON and the admin, for staff as well, and reaches no other tenant."""
    site.TASKSTATE = {**site.TASKSTATE, "VISIBLE_TASKS": f"{__name__}.visible_by_id"}
    anna, boss = people
    everything = [*OWN.values(), *OTHERS.values()]
    whole, nothing = {OWN[place], OTHERS[place]}, set()
    if route in ADMIN_ROUTES:
        look = ADMIN_ROUTES[route]
        assert look(team_browser(boss, place, everything)) == whole
        assert look(team_browser(boss, place, [OWN[place]])) == {OWN[place]}
        return
    own = {OWN[place]} if route in {"page", "mine"} else whole
    look = ROUTES[route]
    assert look(team_browser(anna, place, everything)) == own
    hidden = nothing if route in {"page", "mine"} else {OTHERS[place]}
    assert look(team_browser(anna, place, [OTHERS[place]])) == hidden


def test_a_rule_may_join_and_repeat(people, site):
    """A queryset that is distinct is shown, and deleted from, like any other."""
    users = get_user_model().objects.all()
    rule = lambda request: Task.objects.filter(user__in=users).distinct()
    site.TASKSTATE = {**site.TASKSTATE, "VISIBLE_TASKS": rule}
    anna, _ = people

    assert ROUTES["newest"](browser(anna, "a")) == {OWN["a"], OTHERS["a"]}
    test_an_action_reaches_no_other_tenant("a", people)


@pytest.mark.parametrize("path", [PAGE, JSON])
def test_a_rule_may_select_related_and_reverse(path, people, site):
    """Neither changes what is shown, nor in which order."""
    anna, _ = people
    expected = browser(anna, "a").get(path).content
    rule = lambda request: Task.objects.for_user(anna).select_related("user").reverse()
    site.TASKSTATE = {**site.TASKSTATE, "VISIBLE_TASKS": rule}
    response = browser(anna, "a").get(path)

    assert response.status_code == 200
    assert without_cursor(response.content) == without_cursor(expected)


def without_cursor(content):
    return re.sub(rb"[0-9]{16}", b"", content)


@pytest.mark.parametrize("path", [PAGE, JSON, f"{JSON}?since=0&mine=1"])
def test_a_rule_is_asked_once_per_request(path, people, site):
    """It may ask the database for a team."""
    asked = []
    rule = lambda request: asked.append(request) or Task.objects.all()
    site.TASKSTATE = {**site.TASKSTATE, "VISIBLE_TASKS": rule}
    anna, _ = people
    browser(anna, "a").get(path)

    assert len(asked) == 1


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (lambda request: None, "returned a NoneType"),
        (lambda request: list(Task.objects.all()), "returned a list"),
        (lambda request: get_user_model().objects.all(), "returned a QuerySet"),
        (lambda request: Task.objects.all()[:5], "returned a slice"),
        (lambda request: Task.objects.values("pk"), "returned values of tasks"),
        (lambda request: Task.objects.all().union(Task.objects.all()), "a union"),
        ("tests.nowhere.rule", "VISIBLE_TASKS is 'tests.nowhere.rule', which can't be imported"),
    ],
)
def test_a_rule_that_is_wrong_is_named(rule, text, people, site):
    """And shows nothing."""
    site.TASKSTATE = {"VISIBLE_TASKS": rule}
    anna, _ = people
    for route in (PAGE, JSON):
        with pytest.raises(ImproperlyConfigured, match=re.escape(text)):
            browser(anna, "a").get(route)


# Operators.


def test_operators_see_all_tenants(people, capsys):
    """Or one of them, by its name."""
    for number, place in enumerate(PLACES, 200):
        fields = {"actor_name": f"actor-{number}", "enqueued_at": now_ms()}
        write(number, people[0], place, **fields)

    def watch(*arguments):
        call_command("watch_tasks", "--once", *arguments)
        return set(re.findall(r"actor-\d+", capsys.readouterr().out))

    everywhere = {"actor-200", "actor-201", "actor-202"}
    assert watch() == watch("--user", "anna") == everywhere
    assert watch("--tenant", "b") == watch("--tenant", "b", "--user", "anna") == {"actor-201"}
    assert watch("--tenant", "") == {"actor-202"}


def now_ms():
    return int(time.time() * 1000)
