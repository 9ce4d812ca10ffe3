"""How long the writer's thread keeps its connection."""

import select
import time

import django
import pytest
from django.db import IntegrityError, OperationalError, connections
from django.db.backends.signals import connection_created

from taskstate.stores import BadDataError
from taskstate.stores.base import TIDY_SECONDS, DatabaseStore
from tests.conftest import LIMIT_SECONDS, use_database
from tests.factories import make_entry, make_transition
from tests.stores.test_contract import STORES


class Clock:
    """Monotonic time that passes when it is told to."""

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
        store.write([make_entry(make_transition())])
        store.tidy()
        return store, connection

    yield written
    connection.close()


def test_while_it_is_busy_it_does_not_connect_again(written_through):
    """Even if connections are meant to live for one request: that is for requests."""
    store, kept = written_through(0)
    raw = kept.connection
    store.write([make_entry(make_transition(hop=2))])
    store.tidy()

    assert raw is not None
    assert kept.connection is raw


def test_at_rest_it_keeps_none_that_it_should_not(written_through):
    """A hundred idle processes hold no connection."""
    store, kept = written_through(0)
    store.rest()
    assert kept.connection is None

    store.write([make_entry(make_transition(hop=2))])
    assert kept.connection is not None


@pytest.mark.parametrize("age", [None, 3600])
def test_at_rest_it_keeps_what_may_be_kept(written_through, age):
    """As CONN_MAX_AGE has it."""
    store, kept = written_through(age)
    store.rest()

    assert kept.connection is not None


@pytest.mark.parametrize("step", [DatabaseStore.tidy, DatabaseStore.rest])
def test_an_old_connection_is_closed(written_through, step, clock):
    """When it is older than CONN_MAX_AGE, busy or not."""
    store, kept = written_through(3600)
    kept.close_at = 0.0
    clock.now += TIDY_SECONDS
    step(store)

    assert kept.connection is None


def test_a_broken_connection_is_closed_at_once(written_through, monkeypatch):
    """The next try connects anew."""
    store, kept = written_through(0)

    def fail(connection, batch):
        connection.errors_occurred = True
        raise OperationalError("the server closed the connection unexpectedly")

    monkeypatch.setattr(store, "_write_once", fail)
    monkeypatch.setattr(kept, "is_usable", lambda: False)
    with pytest.raises(OperationalError):
        store.write([make_entry(make_transition(hop=2))])
    store.tidy()

    assert kept.connection is None


def fail_with(error, store, monkeypatch):
    """Let the next write fail, and tidy up as the writer does after it."""

    def fail(connection, batch):
        raise error

    monkeypatch.setattr(store, "_write_once", fail)
    with pytest.raises((type(error), BadDataError)):
        store.write([make_entry(make_transition(hop=2))])
    store.tidy()


def test_after_an_outage_it_connects_anew(written_through, monkeypatch):
    """It may be to a server that was made read-only, while another took over its address."""
    store, kept = written_through(None)
    fail_with(OperationalError("the server is read-only"), store, monkeypatch)

    assert kept.connection is None


def test_after_bad_data_it_stays_connected(written_through, monkeypatch):
    """The halves of the batch follow at once."""
    store, kept = written_through(None)
    raw = kept.connection
    fail_with(IntegrityError("the row is refused"), store, monkeypatch)

    assert kept.connection is raw


def test_a_connection_that_a_receiver_opens_is_looked_after(written_through):
    """At once, not when it is next due: it may be too old, or a fork may follow."""
    store, kept = written_through(3600)
    kept.close()
    kept.ensure_connection()
    kept.close_at = 0.0
    store.tidy()

    assert kept.connection is None


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
    """The batch goes by a new one at once; a change whose answer was lost is told all the same."""
    store = make_store()
    connection = connections[server_database]
    store.write([make_entry(make_transition())])
    end_by_the_server(connection)

    entry = make_entry(make_transition(hop=2))
    written = store.write([entry])

    assert [change.entry for change in written.changes] == [entry]
    assert entry.uncertain


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
        store.write([make_entry(make_transition())])
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

    store.write([make_entry(make_transition())])


@pytest.mark.parametrize("make_store", STORES)
def test_a_second_lost_connection_is_an_outage(server_database, make_store, monkeypatch):
    """It tries once more, not for ever."""
    store = make_store()
    connection = connections[server_database]
    store.write([make_entry(make_transition())])
    end_by_the_server(connection)
    tries = []

    def refuse(params):
        tries.append(params)
        raise OperationalError("the server refuses connections")

    monkeypatch.setattr(connection, "get_new_connection", refuse)
    with pytest.raises(OperationalError, match="refuses"):
        store.write([make_entry(make_transition(hop=2))])

    assert len(tries) == 1
