"""Streams of server-sent events: what they send, what they cost, and when they end."""

import asyncio
import contextlib
import datetime
import gc
import itertools
import json
import signal
import threading
import uuid

import django
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.db import DatabaseError, InterfaceError, connections, transaction
from django.test import AsyncClient, RequestFactory
from django.test.utils import CaptureQueriesContext

from taskstate import conf
from taskstate.models import Status, Task
from taskstate.views import events, queries, streams
from taskstate.visibility import TaskAccess
from tests.support import two_tenants, website
from tests.support.factories import START, make_id
from tests.support.html import Page
from tests.support.limits import LIMIT_SECONDS
from tests.support.processes import environment, run_script
from tests.support.streams import aiter_of, needs_streams, next_event
from tests.support.users import signed_in, use_users
from tests.support.views import write

SECOND = 1_000_000
EVERYTHING = queries.TaskQuery()
EVENTS, PAGE = "/tasks/events/", "/tasks/"

#: Before that, Django does not listen for it.
notices_disconnects = pytest.mark.skipif(
    django.VERSION < (5, 0), reason="Django notices a disconnect from 5.0"
)


@pytest.fixture(autouse=True)
def site(settings):
    website.use(settings)
    yield
    gc.collect()  # Responses that tests have dropped.
    assert streams._taken == {}


@pytest.fixture
def carla(sqlite):
    """A user, where one kind of database is enough."""
    with use_users() as make:
        yield make("carla")


@pytest.fixture
def fast(monkeypatch):
    """Let streams query almost without a pause."""
    monkeypatch.setattr(events, "INTERVAL_SECONDS", 0.01)


def access_of(user):
    request = RequestFactory().get(EVENTS)
    request.user = user
    return TaskAccess(request)


def make_subscription(user, query=EVERYTHING):
    return events._Subscription(access_of(user), query)


def stream_of(subscription, clock=None):
    """Return the texts of a stream."""
    return events._events(subscription, streams.Slot("test"), *([clock] if clock else []))


async def first_numbers(client):
    """Return the numbers of the tasks in the first event of a stream."""
    _, stream = await open_stream(client)
    _, data = await next_event(stream)
    await stream.aclose()
    return numbers(data["tasks"])


def test_under_wsgi_there_are_no_events(anna):
    """An empty 204, at once: a browser doesn't ask again then, and the script polls."""
    response = signed_in(anna).get(EVENTS)

    assert response.status_code == 204
    assert response.content == b""


@pytest.mark.skipif(django.VERSION >= (4, 2), reason="From 4.2 on Django streams")
def test_without_streams_there_are_no_events(anna):
    """Before Django 4.2 under ASGI neither."""
    client = signed_in(anna, AsyncClient)

    async def read():
        return await client.get(EVENTS)

    assert async_to_sync(read)().status_code == 204


@needs_streams
def test_events_hold_what_changes(anna, bert, fast):
    """First what there is, then each change once, and nothing of other users."""
    write(1, anna, Status.ENQUEUED)
    client = signed_in(anna, AsyncClient)

    async def read():
        response = await client.get(EVENTS, {"id": [make_id(1), make_id(2)], "since": "0"})
        assert response["Content-Type"] == "text/event-stream"
        assert response["Cache-Control"] == "private, no-store"
        stream = aiter_of(response)
        sent = [await next_event(stream)]
        await sync_to_async(write)(2, bert)
        await sync_to_async(write)(1, anna, Status.RUNNING)
        sent.append(await next_event(stream))
        await sync_to_async(write)(3, anna, Status.DONE)
        sent.append(await next_event(stream))
        await stream.aclose()
        return sent

    sent = async_to_sync(read)()
    assert [
        [(uuid.UUID(task["id"]).int, task["status"]) for task in found["tasks"]]
        for _, found in sent
    ] == [[(1, "enqueued")], [(1, "running")], [(3, "done")]]
    assert all(key == found["cursor"] for key, found in sent)


@needs_streams
def test_events_go_on_where_they_were_lost(anna):
    """By the id of the last event, which a browser sends along."""
    client = signed_in(anna, AsyncClient)
    cursor = queries.read_cursor()
    write(1, anna)
    Task.objects.update(written_at=cursor - 60 * SECOND)

    async def first_event(last):
        headers = {"Last-Event-ID": str(last)}
        response = await client.get(EVENTS, {"since": str(cursor)}, headers=headers)
        stream = aiter_of(response)
        _, found = await next_event(stream)
        await stream.aclose()
        return len(found["tasks"])

    assert async_to_sync(first_event)(cursor) == 0
    assert async_to_sync(first_event)(cursor - 60 * SECOND) == 1


@needs_streams
def test_the_page_offers_events_under_asgi(anna):
    """There they cost no worker."""
    client = signed_in(anna, AsyncClient)

    async def read():
        return await client.get(PAGE)

    response = async_to_sync(read)()
    ((list_, _),) = Page(response.content.decode()).find("task-list")

    assert list_["data-events-url"] == "/tasks/events/?mine=1"


@needs_streams
def test_a_stream_lives_for_a_while(anna, monkeypatch):
    """It shows that it is alive, ends, and keeps no connection to the database."""
    monkeypatch.setattr(events, "INTERVAL_SECONDS", 0)
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0)
    monkeypatch.setattr(events, "LIFE_SECONDS", 3)
    clock = iter(range(100))

    async def read():
        return [text async for text in stream_of(make_subscription(anna), lambda: next(clock))]

    first, *others = async_to_sync(read)()
    assert first.startswith("id: ")
    assert others == [": still here\n\n"] * 2
    assert connections[conf.tasks_database()].connection is None


@needs_streams
def test_a_quiet_stream_queries_less_often(carla, monkeypatch):
    """And once a second again as soon as something changes."""
    pauses = []

    async def note(seconds):
        pauses.append(round(seconds, 2))

    monkeypatch.setattr(streams, "sleep", note)
    monkeypatch.setattr(events, "LIFE_SECONDS", 10)
    clock = iter(range(100))
    subscription = make_subscription(carla)
    find_changes = subscription.find_changes
    subscription.read = lambda portion: []
    subscription.find_changes = lambda: find_changes()._replace(
        portions=[["changed"]] if len(pauses) == 8 else []
    )

    async def read():
        return [text async for text in stream_of(subscription, lambda: next(clock))]

    async_to_sync(read)()
    assert pauses == [1, 1.3, 1.69, 2.2, 2.86, 3.71, 4.83, 5, 1]


def numbers(tasks):
    return [uuid.UUID(str(task["id"])).int for task in tasks]


def next_portions(subscription):
    """Return the numbers of the tasks that a stream sends next, by event."""
    portions = subscription.find_changes().portions
    return [numbers(subscription.read(portion)) for portion in portions]


def test_results_of_unchanged_tasks_are_not_read(anna):
    """A query that finds no change reads a few short columns; of changed tasks it reads all."""
    for number in (1, 2, 3):
        write(number, anna, Status.RUNNING, result=json.dumps("r" * 1000))
    ids = tuple(uuid.UUID(make_id(number)) for number in (1, 2, 3))
    subscription = make_subscription(anna, queries.TaskQuery(ids=ids, since=0))
    assert sorted(next_portions(subscription)[0]) == [1, 2, 3]

    with CaptureQueriesContext(connections[conf.tasks_database()]) as quiet:
        assert next_portions(subscription) == []
    for query in quiet:
        assert not {"result", "description", "error"} & set(
            query["sql"].replace("`", '"').split('"')
        )
    assert len(quiet) == 3

    write(2, anna, Status.DONE, result=json.dumps("other"))
    (portion,) = subscription.find_changes().portions
    (task,) = subscription.read(portion)
    assert (task["status"], task["result"]) == ("done", "other")


def test_what_a_stream_remembers_is_short(carla):
    """One number for each task, however long its result is."""
    write(1, carla, result=json.dumps("r" * 60_000))
    subscription = make_subscription(carla, queries.TaskQuery(ids=(uuid.UUID(make_id(1)),)))
    next_portions(subscription)

    assert [type(fingerprint) for fingerprint in subscription._sent.values()] == [int]


@pytest.mark.parametrize("field", ["status", "updated_at", "progress", "written_at"])
def test_a_row_that_the_site_has_changed(field, anna):
    """By an update of its own, which may leave alone when the row was written."""
    write(1, anna)
    subscription = make_subscription(anna, queries.TaskQuery(ids=(uuid.UUID(make_id(1)),)))
    assert next_portions(subscription) == [[1]]
    assert next_portions(subscription) == []
    task = Task.objects.get()
    value = {
        "status": Status.DONE,
        "updated_at": task.updated_at + datetime.timedelta(seconds=1),
        "progress": 50.0,
        "written_at": 7,
    }[field]
    Task.objects.update(**{field: value})

    assert next_portions(subscription) == [[1]]


def test_a_result_that_comes_alone(anna):
    """Nothing else of the task has changed."""
    write(1, anna, Status.DONE)
    subscription = make_subscription(anna, queries.TaskQuery(ids=(uuid.UUID(make_id(1)),)))
    assert next_portions(subscription) == [[1]]
    Task.objects.update(result={"late": True}, written_at=Task.objects.get().written_at + 1)
    (portion,) = subscription.find_changes().portions

    assert subscription.read(portion)[0]["result"] == {"late": True}


def test_long_answers_are_several_events(anna, monkeypatch):
    """Each with a few results.  What has none is in the first one, so that its cursor is right."""
    monkeypatch.setattr(events, "TASKS_PER_EVENT", 2)
    for number in range(8):
        write(number, anna, enqueued_at=START + number)
    ids = tuple(uuid.UUID(make_id(number)) for number in range(5))
    subscription = make_subscription(anna, queries.TaskQuery(ids=ids, since=0))
    portions = next_portions(subscription)

    assert [len(portion) for portion in portions] == [5, 2, 1]
    assert set(portions[0]) > {5, 6, 7}
    assert all(portion == sorted(portion, reverse=True) for portion in portions)
    assert sorted(itertools.chain(*portions)) == list(range(8))


@needs_streams
def test_long_events_are_sent_in_pieces(carla):
    """A server keeps the last piece of each stream in memory until the next one."""
    write(1, carla, result=json.dumps("r" * 60_000))
    query = queries.TaskQuery(ids=(uuid.UUID(make_id(1)),))

    async def read():
        stream = stream_of(make_subscription(carla, query))
        found = [await stream.__anext__()]
        while not found[-1].endswith("\n\n"):
            found.append(await stream.__anext__())
        await stream.aclose()
        return found

    pieces = async_to_sync(read)()
    assert max(map(len, pieces)) <= 16 * 1024
    (task,) = json.loads("".join(pieces).partition("data: ")[2])["tasks"]
    assert task["result"] == "r" * 60_000


def create(number, user):
    """Make a task in the present transaction."""
    at = "2026-01-01T00:00:00Z"
    times = {"enqueued_at": at, "updated_at": at, "written_at": 1}
    fields = {"status": Status.DONE, "user_id": user.pk, "stamp": 1, "rank": 1}
    Task.objects.create(message_id=make_id(number), **fields, **times)


async def open_stream(client, url=EVENTS):
    """Return a response, and its stream; None if there was none."""
    response = await client.get(url)
    if response.status_code == 204:
        return response, None
    assert response.status_code == 200
    return response, aiter_of(response)


@needs_streams
def test_a_user_has_so_many_streams(carla, monkeypatch):
    """Others have theirs; and when one ends, another one may begin."""
    monkeypatch.setattr(streams, "STREAMS_PER_USER", 2)
    with use_users() as make:
        clients = [signed_in(user, AsyncClient) for user in (carla, make("dora"))]

        async def read():
            first, stream = await open_stream(clients[0])
            await next_event(stream)
            kept = await open_stream(clients[0])
            rejected, _ = await open_stream(clients[0])
            other, _ = await open_stream(clients[1])
            await sync_to_async(first.close)()
            again, _ = await open_stream(clients[0])
            await stream.aclose()
            responses = (first, kept[0], rejected, other, again)
            return [r.status_code for r in responses], rejected.content

        statuses, content = async_to_sync(read)()
    assert statuses == [200, 200, 204, 200, 200]
    assert content == b""


@needs_streams
def test_a_process_has_so_many_streams(carla, settings):
    """Whoever they belong to."""
    settings.TASKSTATE = {"MAX_STREAMS": 1}
    with use_users() as make:
        clients = [signed_in(user, AsyncClient) for user in (carla, make("dora"))]

        async def read():
            return [(await open_stream(client)) for client in clients]

        responses = async_to_sync(read)()
    assert [response.status_code for response, _ in responses] == [200, 204]


@needs_streams
def test_without_streams_pages_poll(carla, settings):
    """``MAX_STREAMS`` may be 0."""
    settings.TASKSTATE = {"MAX_STREAMS": 0}
    client = signed_in(carla, AsyncClient)

    async def read():
        return [await client.get(url) for url in (EVENTS, PAGE)]

    events_, page = async_to_sync(read)()
    assert events_.status_code == 204
    assert b"data-events-url" not in page.content


@needs_streams
def test_users_of_two_tenants_have_their_own(carla, settings, monkeypatch):
    """Their keys may be equal."""
    two_tenants.use(settings)
    monkeypatch.setattr(streams, "STREAMS_PER_USER", 1)
    client = signed_in(carla, AsyncClient)

    async def read():
        return [await client.get(EVENTS, X_TENANT=name) for name in ("a", "b", "a")]

    assert [response.status_code for response in async_to_sync(read)()] == [200, 200, 204]


def test_threads_that_take_the_last_slot(settings):
    """In whatever order they run, no more than ``MAX_STREAMS`` get one."""
    settings.TASKSTATE = {"MAX_STREAMS": 5}
    start = threading.Barrier(8)
    found = []

    def take():
        start.wait(LIMIT_SECONDS)
        found.append([streams.take_slot("anna") for _ in range(10)])

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    slots = [slot for slots in found for slot in slots if slot]

    assert len(slots) == len(streams._taken) == 5
    for slot in slots:
        slot.close()
        slot.close()


class End:
    """The ways in which a stream ends: each gives its slot back."""

    async def is_over(self, response, monkeypatch):
        """It has lived for long enough."""
        monkeypatch.setattr(events, "LIFE_SECONDS", 0)
        assert [text async for text in aiter_of(response)]

    async def was_left(self, response, monkeypatch):
        """While it sleeps."""
        stream = aiter_of(response)
        await stream.__anext__()
        waiting = asyncio.ensure_future(stream.__anext__())
        await asyncio.sleep(0)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting

    async def was_closed(self, response, monkeypatch):
        """Between two events."""
        await aiter_of(response).__anext__()
        await sync_to_async(response.close)()

    async def was_never_read(self, response, monkeypatch):
        """The reader had gone before the answer was there, and the server closed it."""
        await sync_to_async(response.close)()

    async def was_dropped(self, response, monkeypatch):
        """Django has canceled the request: nothing is ever called."""

    async def no_database(self, response, monkeypatch):
        """It does not answer."""
        let_queries_fail(monkeypatch, DatabaseError("away"))
        assert [text async for text in aiter_of(response)] == []

    async def no_connection(self, response, monkeypatch):
        """It was lost, as drivers say in another way."""
        let_queries_fail(monkeypatch, InterfaceError("connection already closed"))
        assert [text async for text in aiter_of(response)] == []

    async def error(self, response, monkeypatch):
        """Any other error: the server reports it."""
        let_queries_fail(monkeypatch, RuntimeError("bug"))
        with pytest.raises(RuntimeError):
            await aiter_of(response).__anext__()


def let_queries_fail(monkeypatch, error):
    def find_changes(subscription):
        raise error

    monkeypatch.setattr(events._Subscription, "find_changes", find_changes)


@needs_streams
@pytest.mark.parametrize("end", sorted(name for name in vars(End) if name[0] != "_"))
def test_a_slot_is_given_back(end, carla, monkeypatch):
    """However the stream ends."""
    client = signed_in(carla, AsyncClient)
    taken = []
    kept = []

    async def read():
        response = await client.get(EVENTS)
        taken.append(len(streams._taken))
        await getattr(End(), end)(response, monkeypatch)
        if end != "was_dropped":
            kept.append(response)  # Not the garbage collector is to find it.

    async_to_sync(read)()
    if not kept:
        gc.collect()  # The test client's responses are parts of cycles.
    assert taken == [1]
    assert streams._taken == {}


@needs_streams
def test_an_error_gives_the_slot_back_at_once(carla, monkeypatch):
    """Though a server may keep its traceback, and so all that it has passed, for a while."""
    let_queries_fail(monkeypatch, RuntimeError("bug"))
    stream = stream_of(make_subscription(carla))

    async def read():
        with pytest.raises(RuntimeError) as caught:
            await stream.__anext__()
        assert streams._taken == {}
        return caught

    assert async_to_sync(read)()


@needs_streams
def test_an_outage_is_logged_in_a_line_without_values(carla, monkeypatch, caplog):
    """As any other error of the database."""
    let_queries_fail(monkeypatch, DatabaseError("Duplicate entry 'bob' for key 'x'\nforged"))

    async def read():
        return [text async for text in stream_of(make_subscription(carla))]

    assert async_to_sync(read)() == []
    (text,) = caplog.messages
    assert "The database does not answer: DatabaseError" in text
    assert "bob" not in text
    assert text.isprintable()


@needs_streams
def test_a_rule_that_raises_takes_no_slot(carla, settings):
    """It is the site's."""

    def deny(request):
        raise RuntimeError("rule")

    settings.TASKSTATE = {"VISIBLE_TASKS": deny}
    client = signed_in(carla, AsyncClient)

    async def read():
        with pytest.raises(RuntimeError, match="rule"):
            await client.get(EVENTS)

    async_to_sync(read)()
    assert streams._taken == {}


class Server:
    """What an ASGI server does for one request.

    Parameters:
      client(AsyncClient): It is signed in.
      method(str): Of the request.
    """

    def __init__(self, client, method="GET"):
        cookies = "; ".join(f"{key}={value.value}" for key, value in client.cookies.items())
        self.scope = {
            "type": "http",
            "method": method,
            "path": EVENTS,
            "query_string": b"",
            "headers": [(b"host", b"testserver"), (b"cookie", cookies.encode())],
        }
        self.received = asyncio.Queue()
        self.received.put_nowait({"type": "http.request"})
        self.sent = asyncio.Queue()

    def start(self):
        return asyncio.ensure_future(ASGIHandler()(self.scope, self.received.get, self.sent.put))

    async def next(self):
        return await asyncio.wait_for(self.sent.get(), LIMIT_SECONDS)

    def disconnect(self):
        self.received.put_nowait({"type": "http.disconnect"})


@needs_streams
def test_a_head_is_no_stream(carla):
    """There is nothing to send."""
    client = signed_in(carla, AsyncClient)

    async def read():
        server = Server(client, "HEAD")
        await asyncio.wait_for(server.start(), LIMIT_SECONDS)
        return await server.next(), await server.next()

    start, body = asyncio.run(read())
    assert start["status"] == 200
    assert (b"Content-Type", b"text/event-stream") in start["headers"]
    assert body["body"] == b""


@notices_disconnects
def test_a_reader_that_disconnects(carla):
    """Django ends the request then, and with it the stream."""
    client = signed_in(carla, AsyncClient)

    async def read():
        server = Server(client)
        answer = server.start()
        assert (await server.next())["status"] == 200
        assert b"data: " in (await server.next())["body"]
        assert len(streams._taken) == 1
        server.disconnect()
        await asyncio.wait_for(answer, LIMIT_SECONDS)
        assert streams._taken == {}

    asyncio.run(read())


@needs_streams
def test_streams_share_a_few_threads(anna, monkeypatch, fast):
    """And so a few connections: the thread of each request keeps none while its stream waits."""
    client = signed_in(anna, AsyncClient)
    seen = set()
    kept = []
    find_changes = events._Subscription.find_changes

    def note(subscription):
        seen.add(threading.current_thread())
        return find_changes(subscription)

    def count_kept():
        kept.append(connections[conf.tasks_database()].connection is not None)

    leave = events._close_connections

    def note_connection():
        leave()
        if "taskstate-streams" not in threading.current_thread().name:
            count_kept()

    monkeypatch.setattr(events._Subscription, "find_changes", note)
    monkeypatch.setattr(events, "_close_connections", note_connection)

    async def read():
        servers_ = [Server(client) for _ in range(8)]
        answers = [server.start() for server in servers_]
        for server in servers_:
            assert (await server.next())["status"] == 200
            assert b"data: " in (await server.next())["body"]
        monkeypatch.setattr(events, "LIFE_SECONDS", 0)
        await asyncio.wait_for(asyncio.gather(*answers), LIMIT_SECONDS)

    asyncio.run(read())
    assert {thread.name.partition("_")[0] for thread in seen} == {"taskstate-streams"}
    assert len(seen) <= streams.QUERY_THREADS
    assert kept == [False] * 8


@needs_streams
def test_permissions_are_asked_for_where_the_request_is(carla, monkeypatch, settings):
    """Once, when the stream begins. Another thread may be in the schema of no tenant, where a user
    with the same key may have other permissions."""
    settings.TASKSTATE = {"VISIBLE_TASKS": f"{__name__}.all_of_them"}
    type(carla).objects.filter(pk=carla.pk).update(is_staff=True)
    write(1, carla, Status.FAILED, error="ValueError: seven")
    asked_in = []

    def has_perm(user, permission):
        asked_in.append(threading.current_thread().name)
        return False

    monkeypatch.setattr(type(carla), "has_perm", has_perm)
    client = signed_in(carla, AsyncClient)

    async def read():
        _, stream = await open_stream(client)
        _, data = await next_event(stream)
        await stream.aclose()
        return data["tasks"][0]["error"]

    assert async_to_sync(read)() is None
    assert len(asked_in) == 1
    assert "taskstate-streams" not in asked_in[0]


def all_of_them(request):
    return Task.objects.all()


@needs_streams
def test_in_a_transaction_of_a_test(anna):
    """A project's ``TestCase``: other threads would not see its tasks."""
    client = signed_in(anna, AsyncClient)
    alias = conf.tasks_database()
    with transaction.atomic(using=alias):
        create(1, anna)
        assert async_to_sync(first_numbers)(client) == [1]
        transaction.set_rollback(True, using=alias)


@needs_streams
def test_in_memory(memory):
    """Its tables would be locked for other threads now and then."""
    with use_users() as make:
        user = make("memory")
        create(1, user)
        client = signed_in(user, AsyncClient)
        streams.query_threads.cache_clear()
        assert async_to_sync(first_numbers)(client) == [1]
        assert streams.query_threads.cache_info().currsize == 0
        Task.objects.all().delete()


@needs_streams
def test_after_a_fork(sqlite):
    """The child has threads and slots of its own."""
    code = """
import os
import django
django.setup()
from taskstate.views import streams
slot = streams.take_slot("anna")
assert streams.query_threads().submit(os.getpid).result() == os.getpid()
child = os.fork()
if child == 0:
    found = streams.query_threads().submit(os.getpid).result(20) == os.getpid()
    slot.close()
    os._exit(0 if found and not streams._taken else 1)
print(os.WEXITSTATUS(os.waitpid(child, 0)[1]))
"""
    assert run_script(code, environment("default", PYTHONWARNINGS="ignore")) == "0\n"


class Open:
    """What accepts connections, as the servers of asyncio and uvloop do."""

    def is_serving(self):
        return True


class Closed(Open):
    def is_serving(self):
        return False


class Stoppable:
    """A server like uvicorn's."""

    should_exit = False
    servers = ()

    def handle_exit(self, sig, frame):
        self.should_exit = True


@pytest.fixture
def stoppable():
    server = Stoppable()
    before = signal.signal(signal.SIGTERM, server.handle_exit)
    yield server
    signal.signal(signal.SIGTERM, before)


@needs_streams
def test_a_stream_ends_with_its_server(stoppable, carla, monkeypatch):
    """It notices that while it sleeps, though it would sleep for longer."""
    monkeypatch.setattr(events, "INTERVAL_SECONDS", 3600.0)
    monkeypatch.setattr(streams, "STOP_CHECK_SECONDS", 0.01)

    async def read():
        stream = stream_of(make_subscription(carla))
        await stream.__anext__()
        waiting = asyncio.ensure_future(stream.__anext__())
        await asyncio.sleep(0)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(waiting, LIMIT_SECONDS)

    assert not streams.is_stopping()
    asyncio.run(read())  # In the main thread, the one that gets signals.
    assert streams.is_stopping()


@pytest.mark.parametrize(
    ("servers", "is_stopping"),
    [
        ([Open()], False),
        ([Open(), Closed()], False),
        ([Closed()], True),
        ([], False),
        ([object()], False),
        (7, False),
    ],
)
def test_a_server_that_stops_by_itself(servers, is_stopping, stoppable):
    """After so many requests, for one: no signal has come, but it listens no more."""
    stoppable.servers = servers

    assert streams.is_stopping() is is_stopping


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN, lambda sig, frame: None])
def test_servers_that_say_nothing(handler):
    """Their streams live for as long as they do."""
    before = signal.signal(signal.SIGTERM, handler)
    try:
        assert not streams.is_stopping()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_sleep_is_as_long_as_asked(monkeypatch):
    """In steps, between which the server is looked at."""
    slept = []

    async def note(seconds):
        slept.append(seconds)

    monkeypatch.setattr(streams.asyncio, "sleep", note)
    asyncio.run(streams.sleep(2.5))
    assert slept == [1, 1, 0.5]
