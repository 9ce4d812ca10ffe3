"""Test runners forbid access at any moment: no connection stays in a transaction because of it."""

import threading
import uuid

import pytest
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from taskstate.models import Task, Watermark
from taskstate.stores import base, selection
from tests.support.databases import use_database
from tests.support.factories import make_id, make_pending, make_transition
from tests.support.limits import LIMIT_SECONDS
from tests.support.stores import STORES

FORBIDDEN = "Database access not allowed"


class Blocker:
    """Forbids access as pytest-django does, from the n-th time on that it is asked for."""

    def __init__(self, monkeypatch):
        self.left = float("inf")

        def check(connection):
            self.left -= 1
            if self.left < 0:
                raise RuntimeError(FORBIDDEN)
            ensure_connection(connection)

        ensure_connection = BaseDatabaseWrapper.ensure_connection
        monkeypatch.setattr(BaseDatabaseWrapper, "ensure_connection", check)


@pytest.fixture
def blocker(monkeypatch):
    return Blocker(monkeypatch)


@pytest.fixture(params=["default", "memory", "postgres", "mariadb"])
def anywhere(request, settings, django_db_setup, django_db_blocker):
    """A database of each kind, and an SQLite in memory."""
    if request.param == "memory":
        yield request.getfixturevalue("memory")
        return
    with use_database(request.param, settings, django_db_blocker) as alias:
        yield alias


def in_thread(function):
    """Run a function in a thread, as the writer is one, whose connections end with it."""
    errors = []

    def run():
        try:
            function()
        except BaseException as error:
            errors.append(error)
        finally:
            for connection in connections.all():
                BaseDatabaseWrapper.close(connection)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def pending_task(number):
    return make_pending(make_transition(message_id=make_id(number)))


@pytest.mark.parametrize("make_store", STORES)
@pytest.mark.parametrize("is_open", [False, True], ids=["new connection", "old connection"])
def test_a_write_that_is_interrupted_anywhere(make_store, is_open, anywhere, blocker):
    """What is written afterward is committed, and other threads can write as well."""
    interrupted = []

    def write():
        connection = connections[anywhere]
        for number in range(100):
            store = make_store()
            BaseDatabaseWrapper.close(connection)
            if is_open:
                connection.ensure_connection()
            blocker.left = number
            try:
                store.write([pending_task(1000 + number)])
            except RuntimeError:
                interrupted.append(number)
            else:
                return
            finally:
                blocker.left = float("inf")
            make_store().write([pending_task(number)])

    in_thread(write)

    assert len(interrupted) >= (1 if is_open else 2)
    keys = [make_id(number) for number in interrupted]
    assert Task.objects.filter(pk__in=keys).count() == len(keys)
    make_store().write([pending_task(2000)])


def test_an_interrupted_choice_of_the_store(memory, blocker):
    """The writer asks which store it can have before it writes anything."""

    def look():
        selection.find_obstacle.cache_clear()
        blocker.left = 1  # Connected, and not in autocommit yet.
        with pytest.raises(RuntimeError, match=FORBIDDEN):
            selection.find_obstacle(memory)
        blocker.left = float("inf")
        selection.open_store("auto", lambda: True).write([pending_task(1)])

    in_thread(look)

    assert Task.objects.count() == 1


@pytest.mark.parametrize("make_store", STORES)
def test_the_writer_makes_sure_of_autocommit(make_store, anywhere):
    """A receiver has left a transaction open: it is rolled back, as at the end of a connection."""

    def write():
        connection = connections[anywhere]
        store = make_store()
        store.close_stale_connections()
        store.write([pending_task(1)])
        connection.set_autocommit(False)
        Task.objects.update(description="never committed")
        store.write([pending_task(2)])
        store.close_stale_connections()

    in_thread(write)

    assert sorted(Task.objects.values_list("pk", "description")) == [
        (uuid.UUID(make_id(number)), "") for number in (1, 2)
    ]


@pytest.mark.parametrize("make_store", STORES)
def test_rows_are_committed_if_the_settings_turn_autocommit_off(make_store, anywhere, monkeypatch):
    """The writer's rows are committed all the same."""
    monkeypatch.setitem(connections.settings[anywhere], name="AUTOCOMMIT", value=False)

    def write():
        store = make_store()
        store.close_stale_connections()
        store.write([pending_task(1)])

    in_thread(write)

    assert Task.objects.count() == 1


@pytest.mark.parametrize("make_store", STORES)
def test_a_synchronous_write_does_not_end_the_callers_transaction(make_store, anywhere):
    """What is written at once, in the calling thread, doesn't end it."""

    def write():
        connection = connections[anywhere]
        connection.ensure_connection()
        connection.set_autocommit(False)
        make_store().write([pending_task(1)])
        assert not connection.get_autocommit()
        connection.rollback()

    in_thread(write)


@pytest.mark.parametrize("make_store", STORES)
def test_a_table_that_another_thread_uses(make_store, memory, monkeypatch):
    """In memory, SQLite waits for no such lock; the store does, for a moment."""
    other = connections[memory]
    other.set_autocommit(False)
    Watermark.objects.using(memory).update(cleared_at=0)
    paused = []

    def pause(seconds):
        paused.append(seconds)
        if len(paused) == 3:
            unlock.set()
            assert unlocked.wait(LIMIT_SECONDS)

    unlock, unlocked = threading.Event(), threading.Event()
    monkeypatch.setattr(base.time, "sleep", pause)
    writer = threading.Thread(
        target=in_thread, args=[lambda: make_store().write([pending_task(1)])]
    )
    writer.start()
    assert unlock.wait(LIMIT_SECONDS)
    other.rollback()
    other.set_autocommit(True)
    unlocked.set()
    writer.join(LIMIT_SECONDS)

    assert len(paused) == 3
    assert Task.objects.count() == 1


@pytest.mark.parametrize("make_store", STORES)
def test_a_failure_leaves_a_transaction_by_hand_to_the_caller(make_store, anywhere, monkeypatch):
    """What the caller has written in it is still there, to be committed or rolled back."""
    store = make_store()

    def fail(connection, batch):
        raise ValueError("a bug of ours")

    monkeypatch.setattr(store, "_write_fenced", fail)

    def write():
        connection = connections[anywhere]
        connection.ensure_connection()
        connection.set_autocommit(False)
        Watermark.objects.using(anywhere).create(cleared_at=7)
        with pytest.raises(ValueError, match="a bug of ours"):
            store.write([pending_task(1)])
        assert not connection.get_autocommit()
        assert Watermark.objects.using(anywhere).get().cleared_at == 7
        connection.rollback()

    in_thread(write)

    assert not Watermark.objects.using(anywhere).exists()
