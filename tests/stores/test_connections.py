"""How long the writer's thread keeps its connection."""

import select
import threading
import time

import django
import pytest
from django.db import DatabaseError, IntegrityError, OperationalError, connections, transaction
from django.db.backends.signals import connection_created

import taskstate
from taskstate.middleware import StateMiddleware
from taskstate.stores import BadDataError, base
from taskstate.stores.base import CONNECTION_CHECK_SECONDS, DatabaseStore
from taskstate.utils.sync import WriterThread
from tests.support.databases import use_database
from tests.support.factories import make_id, make_pending, make_transition
from tests.support.limits import LIMIT_SECONDS
from tests.support.stores import STORES


class Clock:
    """Monotonic time that a test advances."""

    def __init__(self):
        self.now = time.monotonic()

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=STORES)
def written_through(request, database, monkeypatch, clock):
    """A connection that a store has just written through, with the age that a test gives it."""
    connection = connections[database]
    connection.close()

    def written(age):
        monkeypatch.setitem(connection.settings_dict, "CONN_MAX_AGE", age)
        store = request.param(clock)
        store.write([make_pending(make_transition())])
        store.close_stale_connections()
        return store, connection

    yield written
    connection.close()


def test_a_busy_writer_keeps_its_connection(written_through):
    """Even if connections are meant to live for one request: that is for requests."""
    store, kept = written_through(0)
    raw = kept.connection
    store.write([make_pending(make_transition(stamp=2))])
    store.close_stale_connections()

    assert raw is not None
    assert kept.connection is raw


def test_an_idle_writer_closes_its_connection(written_through):
    """A hundred idle processes hold no connection."""
    store, kept = written_through(0)
    store.close_idle_connections()
    assert kept.connection is None

    store.write([make_pending(make_transition(stamp=2))])
    assert kept.connection is not None


@pytest.mark.parametrize("age", [None, 3600])
def test_an_idle_writer_keeps_a_persistent_connection(written_through, age):
    """As CONN_MAX_AGE has it."""
    store, kept = written_through(age)
    store.close_idle_connections()

    assert kept.connection is not None


@pytest.mark.parametrize(
    "step", [DatabaseStore.close_stale_connections, DatabaseStore.close_idle_connections]
)
def test_an_old_connection_is_closed(written_through, step, clock):
    """When it is older than CONN_MAX_AGE, busy or not."""
    store, kept = written_through(3600)
    kept.close_at = 0.0
    clock.now += CONNECTION_CHECK_SECONDS
    step(store)

    assert kept.connection is None


def test_a_broken_connection_is_closed_at_once(written_through, monkeypatch):
    """The next try connects again."""
    store, kept = written_through(0)

    def fail(connection, batch):
        connection.errors_occurred = True
        raise OperationalError("the server closed the connection unexpectedly")

    monkeypatch.setattr(store, "_write_fenced", fail)
    monkeypatch.setattr(kept, "is_usable", lambda: False)
    with pytest.raises(OperationalError):
        store.write([make_pending(make_transition(stamp=2))])
    store.close_stale_connections()

    assert kept.connection is None


def fail_with(error, store, monkeypatch):
    """Let the next write fail, and tidy up as the writer does after it."""

    def fail(connection, batch):
        raise error

    monkeypatch.setattr(store, "_write_fenced", fail)
    with pytest.raises((type(error), BadDataError)):
        store.write([make_pending(make_transition(stamp=2))])
    store.close_stale_connections()


def test_the_store_connects_again_after_an_outage(written_through, monkeypatch):
    """It may be to a server that was made read-only, while another took over its address."""
    store, kept = written_through(None)
    fail_with(OperationalError("the server is read-only"), store, monkeypatch)

    assert kept.connection is None


def test_the_store_stays_connected_after_bad_data(written_through, monkeypatch):
    """The halves of the batch follow at once."""
    store, kept = written_through(None)
    raw = kept.connection
    fail_with(IntegrityError("the row is rejected"), store, monkeypatch)

    assert kept.connection is raw


def test_a_connection_that_a_receiver_opens_is_checked_at_once(written_through):
    """At once, not when it is next due: it may be too old, or a fork may follow."""
    store, kept = written_through(3600)
    kept.close()
    kept.ensure_connection()
    kept.close_at = 0.0
    store.close_stale_connections()

    assert kept.connection is None


@pytest.mark.parametrize("make_store", STORES)
def test_the_writer_does_not_log_its_queries(database, make_store, settings):
    """With DEBUG, Django keeps thousands of each connection: whole batches, and what receivers ask
    for.  In other threads they are left alone: a test may count them."""
    settings.DEBUG = True
    kept = []

    def write():
        store = make_store()
        for stamp in range(1, 4):
            store.close_stale_connections()
            store.write([make_pending(make_transition(stamp=stamp))])
            with connections["default"].cursor() as cursor:
                cursor.execute("SELECT 1")
            assert connections[database].queries_log
            store.close_stale_connections()
            kept.append(sum(len(c.queries_log) for c in connections.all()))
        store.close()

    for make_thread in (WriterThread, threading.Thread):
        kept.clear()
        thread = make_thread(target=write)
        thread.start()
        thread.join(LIMIT_SECONDS)
        assert len(kept) == 3
        assert any(kept) == (make_thread is not WriterThread)


@pytest.mark.parametrize("name", ["orm", "upsert"])
def test_the_thread_of_the_middleware_does_not_log_its_queries(database, name, settings, signals):
    """So its connection keeps no statements, and the memory does not grow."""
    settings.DEBUG = True
    made = []

    def note(connection, **kwargs):
        made.append(connection)

    connection_created.connect(note)
    try:
        state = StateMiddleware(store=name)
        for number in range(5):
            state._writer.push(make_transition(message_id=make_id(number)))
            assert taskstate.flush(LIMIT_SECONDS)
    finally:
        connection_created.disconnect(note)

    assert len(signals) == 5
    assert [len(connection.queries_log) for connection in made] == [0] * len(made)
    assert made


KILL = {
    "postgresql": "SELECT pg_terminate_backend(%s)",
    "mysql": "KILL %s",
}
OWN_ID = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT CONNECTION_ID()"}


def end_by_the_server(connection):
    """End a connection from another one, as a server does with one that was idle for long."""
    with connection.cursor() as cursor:
        cursor.execute(OWN_ID[connection.vendor])
        (number,) = cursor.fetchone()
    other = connection.copy()
    with other.cursor() as cursor:
        cursor.execute(KILL[connection.vendor], [number])
    other.close()


@pytest.mark.parametrize("make_store", STORES)
def test_a_connection_that_the_server_has_closed_is_no_outage(server_database, make_store):
    """The batch goes by a new one at once; a change whose reply was lost is announced too."""
    store = make_store()
    connection = connections[server_database]
    store.write([make_pending(make_transition())])
    end_by_the_server(connection)

    pending = make_pending(make_transition(stamp=2))
    written = store.write([pending])

    assert [change.pending for change in written.changes] == [pending]
    assert pending.maybe_committed


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
@pytest.mark.parametrize("make_store", STORES)
def test_a_closed_connection_may_be_the_answer_to_too_large_a_batch(
    database, make_store, monkeypatch
):
    """The server is asked for its limit then, and the flusher halves what may be more than that."""
    monkeypatch.setattr(base, "_max_allowed_packet", lambda connection: 20_000.0)
    store = make_store()
    batch = [make_pending(make_transition(message_id=make_id(n))) for n in (1, 2)]
    store.write(batch)
    end_by_the_server(connections[database])

    batch = [make_pending(make_transition(message_id=make_id(n), stamp=2)) for n in (1, 2)]
    with pytest.raises(BadDataError, match="max_allowed_packet"):
        store.write(batch)

    assert [len(store.write([pending]).changes) for pending in batch] == [1, 1]


@pytest.mark.parametrize("make_store", STORES)
def test_a_new_connection_that_is_closed_at_once_is_no_outage(server_database, make_store):
    """PgBouncer closes one whose query it has given to a connection that the server has closed."""
    store = make_store()
    connection = connections[server_database]
    connection.close()
    new = []

    def end(connection, **kwargs):
        new.append(connection)
        if len(new) == 1:
            end_by_the_server(connection)

    connection_created.connect(end)
    try:
        store.write([make_pending(make_transition())])
    finally:
        connection_created.disconnect(end)
    assert new.count(connection) > 1, "the first one was not ended"


@pytest.fixture
def pool(settings, django_db_setup, django_db_blocker, monkeypatch):
    """A full pool of PostgreSQL's, which the writer's connection is from."""
    if django.VERSION < (5, 1):
        pytest.skip("Django has pools from 5.1 on")
    with use_database("postgres", settings, django_db_blocker):
        connection = connections["postgres"]
        connection.close()
        monkeypatch.setitem(connection.settings_dict["OPTIONS"], "pool", {"min_size": 4})
        connection.pool.open(wait=True)
        yield connection.pool
        connection.close()
        connection.close_pool()


@pytest.mark.parametrize("make_store", STORES)
def test_a_pool_whose_connections_the_server_has_closed_is_no_outage(pool, make_store):
    """However many of them there are."""
    store = make_store()
    ends = [pool.getconn() for _ in range(pool.get_stats()["pool_size"])]
    for raw in ends:
        raw.execute("SET idle_session_timeout = 1")
    for raw in ends:
        assert select.select([raw], [], [], LIMIT_SECONDS)[0], "the server has not closed it"
        pool.putconn(raw)

    store.write([make_pending(make_transition())])


@pytest.mark.parametrize("make_store", STORES)
def test_a_pooled_connection_is_not_used_again_after_its_server_rejected_a_write(
    pool, make_store, monkeypatch
):
    """Its server may have become read-only, while another one has taken over the address."""
    store = make_store()
    used = []

    def reject(connection, batch):
        connection.ensure_connection()
        used.append(connection.connection)
        raise DatabaseError("read-only")

    monkeypatch.setattr(store, "_write_fenced", reject)
    for _ in range(3):
        store.close_stale_connections()
        with pytest.raises(DatabaseError):
            store.write([make_pending(make_transition())])

    assert len(set(map(id, used))) == 3
    assert all(raw.closed for raw in used)


@pytest.mark.parametrize("make_store", STORES)
def test_a_second_lost_connection_is_an_outage(server_database, make_store, monkeypatch):
    """It tries only once more."""
    store = make_store()
    connection = connections[server_database]
    store.write([make_pending(make_transition())])
    end_by_the_server(connection)
    tries = []

    def reject(params):
        tries.append(params)
        raise OperationalError("the server rejects connections")

    monkeypatch.setattr(connection, "get_new_connection", reject)
    with pytest.raises(OperationalError, match="rejects"):
        store.write([make_pending(make_transition(stamp=2))])

    assert len(tries) == 1


def test_after_an_outage_it_connects_anew_once(written_through, monkeypatch, clock):
    """The new connection is kept, as any other."""
    store, kept = written_through(None)
    with monkeypatch.context() as patch:
        fail_with(OperationalError("the server is read-only"), store, patch)
    assert kept.connection is None

    store.write([make_pending(make_transition(stamp=2))])
    store.close_stale_connections()
    raw = kept.connection
    clock.now += CONNECTION_CHECK_SECONDS
    store.close_stale_connections()

    assert raw is not None
    assert kept.connection is raw


@pytest.mark.parametrize("make_store", STORES)
def test_a_thread_that_ends_closes_an_sqlite_in_memory(make_store, memory):
    """Django's own close leaves it open."""
    left = []

    def write():
        store = make_store()
        store.close_stale_connections()
        store.write([make_pending(make_transition())])
        store.close()
        left.append(connections[memory].connection)

    thread = threading.Thread(target=write)
    thread.start()
    thread.join(LIMIT_SECONDS)

    assert left == [None]


@pytest.mark.parametrize("make_store", STORES)
def test_a_conflict_is_tried_again_a_few_times(sqlite, make_store, monkeypatch):
    """Then it is for the writer to decide when to try again."""
    store = make_store()
    tries = []

    def conflict(connection, batch):
        tries.append(batch)
        raise OperationalError(1213, "Deadlock found when trying to get lock")

    monkeypatch.setattr(store, "_write_fenced", conflict)
    with pytest.raises(OperationalError, match="Deadlock"):
        store.write([make_pending(make_transition())])

    assert len(tries) == base.TRIES


@pytest.mark.parametrize("make_store", STORES)
def test_it_knows_whether_the_caller_is_in_a_transaction(database, make_store):
    """It asks about the database of the tasks."""
    store = make_store()

    assert store.is_in_transaction() is False
    with transaction.atomic(using=database):
        assert store.is_in_transaction() is True
