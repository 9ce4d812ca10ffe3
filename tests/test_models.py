"""The ``Task`` model: its columns, its queries, its migration."""

import datetime
import io
import re
import time
import unittest
import uuid
from types import SimpleNamespace

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser, Group
from django.core.management import call_command
from django.db import connections, models
from django.db.models import Prefetch
from django.test import TestCase
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from taskstate import models as models_module
from taskstate.models import Status, Task, user_key, user_keys_matching
from taskstate.transitions.status import ACTIVE
from tests.support.databases import empty_tables, use_database
from tests.support.factories import START, make_id, make_transition
from tests.support.limits import LIMIT_SECONDS
from tests.support.rows import write


def numbers(tasks):
    return [task.message_id.int for task in tasks]


def test_migrations_are_complete():
    """``makemigrations --check`` has nothing to add."""
    out = io.StringIO()
    call_command("makemigrations", "taskstate", check=True, dry_run=True, stdout=out)

    assert "No changes" in out.getvalue()


def test_newest_first(database):
    """By the time that the message was enqueued."""
    write(
        *(
            make_transition(message_id=make_id(n), enqueued_at=START + at)
            for n, at in [(1, 5), (2, 9), (3, 1)]
        )
    )

    assert numbers(Task.objects.all()) == [2, 1, 3]


def test_active_and_finished(database):
    """Each status is one or the other."""
    write(*(make_transition(status, message_id=make_id(n)) for n, status in enumerate(Status)))

    active = {task.status for task in Task.objects.active()}
    finished = {task.status for task in Task.objects.finished()}
    assert active == {"enqueued", "delayed", "running"}
    assert finished == {"done", "failed", "skipped"}


def test_for_user(database):
    """An instance or a key; the anonymous user has no tasks."""
    user = get_user_model()(pk=7)
    write(
        make_transition(message_id=make_id(1), user_pk=7),
        make_transition(message_id=make_id(2), user_pk=8),
        make_transition(message_id=make_id(3)),
    )

    assert numbers(Task.objects.for_user(user)) == [1]
    assert numbers(Task.objects.for_user(8)) == [2]
    assert numbers(Task.objects.for_user(AnonymousUser())) == []
    assert numbers(Task.objects.active().for_user(7)) == [1]


@pytest.mark.parametrize("target", [Group, Group(name="x")])
def test_for_object(target, database):
    """An instance or a class, by either of the model's names."""
    write(
        make_transition(message_id=make_id(1), app_name="auth", model_name="Group", at=START + 3),
        make_transition(message_id=make_id(2), app_name="auth", model_name="group"),
        make_transition(message_id=make_id(3), app_name="shop", model_name="Group"),
        make_transition(message_id=make_id(4), app_name="auth", model_name="User"),
    )

    assert sorted(numbers(Task.objects.for_object(target))) == [1, 2]


def test_reads_come_from_the_tasks_database(database):
    """Routers are not asked, since the rows are written there."""
    write(make_transition())

    assert Task.objects.get().pk.int == 1
    assert Task.objects.get()._state.db == database
    assert Task.objects.using(database).count() == 1
    other = {"default", *connections} - {database}
    for alias in other:
        Task.objects.using(alias).all().delete()
    assert Task.objects.count() == 1


def test_a_task_reads_well(database):
    """In a shell, in the admin, in a log."""
    write(
        make_transition(message_id=make_id(1), description="Export 7"),
        make_transition(Status.DONE, message_id=make_id(2), actor_name="export"),
    )

    assert {str(task) for task in Task.objects.all()} == {"Export 7 (Enqueued)", "export (Done)"}
    assert {task.title for task in Task.objects.all()} == {"Export 7", "export"}


def test_the_user_has_no_reverse_name():
    """Nothing that could clash with a project's own."""
    assert not any(field.related_model is Task for field in get_user_model()._meta.get_fields())


def test_deleting_a_user_leaves_the_task(database):
    """The task still has the user's key, and a delete does not search for tasks."""
    user = get_user_model().objects.using(database).create(username="anna")
    pk = user.pk
    write(make_transition(user_pk=pk))
    user.delete()

    assert Task.objects.get().user_id == pk


@pytest.fixture
def anna(server_database):
    """A user in the default database; in that of the tasks another user has the same key."""
    everyone = get_user_model()._base_manager
    for alias in ("default", server_database):
        everyone.using(alias).all().delete()
    anna = everyone.using("default").create(username="anna")
    everyone.using(server_database).create(pk=anna.pk, username="bob")
    yield anna
    for alias in ("default", server_database):
        everyone.using(alias).all().delete()


def test_the_user_is_read_from_the_database_of_the_users(anna):
    """Not from that of the tasks, where another user may have the same key."""
    write(make_transition(user_pk=anna.pk))

    assert Task.objects.get().user.username == "anna"
    assert Task.objects.get().user._state.db == "default"
    assert Task.objects.get(user=anna) == Task.objects.for_user(anna).get()


@pytest.mark.parametrize(
    "lookup",
    [
        "user",
        Prefetch("user"),
        Prefetch("user", get_user_model().objects.filter(username__in=["anna", "bob"])),
    ],
    ids=["name", "lookup", "queryset"],
)
def test_users_are_prefetched_from_the_database_of_the_users(lookup, anna, server_database):
    """By one query, and by a queryset of the project's own as well."""
    write(*(make_transition(message_id=make_id(n), user_pk=anna.pk) for n in range(3)))

    with CaptureQueriesContext(connections["default"]) as captured:
        tasks = list(Task.objects.prefetch_related(lookup))
    assert len(captured) == 1
    assert {task.user.username for task in tasks} == {"anna"}

    elsewhere = Prefetch("user", get_user_model().objects.using(server_database))
    tasks = list(Task.objects.prefetch_related(elsewhere))
    assert {task.user.username for task in tasks} == {"bob"}, "the queryset names a database"


def test_a_user_who_is_gone(anna):
    """Is not replaced by the user with the same key in the database of the tasks."""
    write(make_transition(user_pk=anna.pk))
    anna.delete(using="default")

    with pytest.raises(get_user_model().DoesNotExist):
        _ = Task.objects.get().user
    assert Task.objects.prefetch_related("user").get().user is None


def test_users_are_read_from_the_database_that_a_router_chooses(server_database, settings, anna):
    """It does not get the database of the tasks as a hint, which many routers would return."""

    class Router:
        def db_for_read(self, model, instance=None, **hints):
            if instance is not None:
                return instance._state.db
            return server_database if model is get_user_model() else None

    settings.DRAMATIQ_TASKS_DATABASE = "default"
    settings.DATABASE_ROUTERS = [Router()]
    empty_tables("default")
    write(make_transition(user_pk=anna.pk))

    assert Task.objects.get()._state.db == "default"
    assert Task.objects.get().user.username == "bob"
    assert Task.objects.prefetch_related("user").get().user.username == "bob"


def test_users_in_an_event_loop(anna):
    """A task whose user was prefetched can be shown there."""
    write(make_transition(user_pk=anna.pk))

    async def read():
        (task,) = await sync_to_async(list)(Task.objects.prefetch_related("user"))
        return task.user.username

    assert async_to_sync(read)() == "anna"


def test_users_in_a_test_case_of_two_databases(anna, server_database):
    """What a test writes and rolls back is found, in each of its databases."""

    class Case(TestCase):
        databases = {"default", server_database}

        def test(self):
            carol = get_user_model().objects.create(username="carol")
            write(make_transition(user_pk=carol.pk))
            assert Task.objects.get().user == carol

    result = unittest.TestResult()
    unittest.TestSuite([Case("test")]).run(result)
    assert result.wasSuccessful(), result.errors + result.failures


def test_migrations_name_a_class_of_django(sqlite):
    """A project's own migrations that copy the field import nothing of ours."""
    path = Task._meta.get_field("user").deconstruct()[1]

    assert path == "django.db.models.ForeignKey"


def test_no_index_holds_what_changes():
    """So that PostgreSQL can update a row in its own page."""
    changing = {"status", "attempt", "started_at", "finished_at", "updated_at", "stamp", "rank"}
    indexed = {name.lstrip("-") for index in Task._meta.indexes for name in index.fields}
    indexed |= {field.name for field in Task._meta.fields if field.db_index or field.unique}

    assert indexed == {"message_id", "enqueued_at", "tenant", "user", "app_name", "model_name"}
    assert not indexed & changing


def test_postgresql_leaves_room_in_its_pages(settings, django_db_setup, django_db_blocker):
    """So that an update finds room in the page of its row."""
    query = "SELECT reloptions FROM pg_class WHERE relname = 'taskstate_task'"
    database = use_database("postgres", settings, django_db_blocker)
    with database as alias, connections[alias].cursor() as cursor:
        cursor.execute(query)
        assert cursor.fetchone() == (["fillfactor=50"],)


def seen(tasks):
    return sorted(numbers(tasks.exclude(seen_at=None)))


def write_of_each_status(**values):
    write(
        *(
            make_transition(status, message_id=make_id(n), **values)
            for n, status in enumerate(Status)
        )
    )


def finished_at(at, number=1, stamp=1, **values):
    return make_transition(Status.DONE, stamp, at, message_id=make_id(number), **values)


def now_in_ms():
    return int(time.time() * 1000)


def test_for_display_shows_each_result_once(database):
    """The active ones always, the finished ones until half a minute after they were seen."""
    write_of_each_status()
    assert len(Task.objects.for_display()) == 6

    assert Task.mark_seen(Task.objects.all()) == 3
    assert len(Task.objects.for_display()) == 6, "not for half a minute after it was seen"

    Task.objects.filter(seen_at__isnull=False).update(
        seen_at=timezone.now() - datetime.timedelta(seconds=31)
    )
    assert {task.status for task in Task.objects.for_display()} == set(ACTIVE)


def test_only_finished_tasks_are_marked(database):
    """The result of any other one is still to be shown, however often its id was marked."""
    write_of_each_status()
    assert Task.mark_seen([make_id(n) for n in range(7)]) == 3
    assert seen(Task.objects.all()) == [3, 4, 5]

    Task.objects.update(seen_at=timezone.now() - datetime.timedelta(hours=1))
    write(finished_at(now_in_ms(), 0, stamp=2))
    assert 0 in numbers(Task.objects.for_display())


def test_the_first_time_counts(database):
    """Marking it again changes nothing."""
    write(finished_at(START))
    assert Task.mark_seen([make_id(1)]) == 1
    first = Task.objects.get()
    assert timezone.now() - first.seen_at < datetime.timedelta(seconds=LIMIT_SECONDS)

    assert Task.mark_seen([make_id(1)]) == 0
    assert Task.objects.get().seen_at == first.seen_at
    assert Task.objects.get().written_at == first.written_at


def test_what_runs_again_is_shown_again(database):
    """While it runs, and when it has finished, until that was seen."""
    write(finished_at(START))
    assert Task.mark_seen([make_id(1)]) == 1
    long_ago = Task.objects.get().updated_at + datetime.timedelta(minutes=1)
    Task.objects.update(seen_at=long_ago)
    assert numbers(Task.objects.for_display()) == []

    write(make_transition(Status.RUNNING, 2, START + 3_600_000))
    assert numbers(Task.objects.for_display()) == [1]
    assert Task.mark_seen([make_id(1)]) == 0
    write(finished_at(START + 3_700_000, stamp=2))
    assert numbers(Task.objects.for_display()) == [1]

    assert Task.mark_seen([make_id(1)]) == 1
    assert Task.objects.get().seen_at > long_ago


def test_a_worker_whose_clock_is_ahead(database):
    """What it has finished in this host's future is seen once it was marked."""
    write(finished_at(now_in_ms() + 3_600_000))
    assert Task.mark_seen([make_id(1)]) == 1

    task = Task.objects.get()
    assert task.seen_at == task.updated_at
    assert Task.mark_seen([make_id(1)]) == 0


@pytest.mark.parametrize("kind", [str, uuid.UUID, lambda text: Task.objects.get(pk=text)])
def test_ids_of_each_kind(kind, database):
    """UUIDs, their text, or tasks; each once or more often."""
    write(finished_at(START), finished_at(START, 2))
    one = kind(make_id(1))

    assert Task.mark_seen(iter([one, one])) == 1
    assert seen(Task.objects.all()) == [1]


def test_any_number_of_ids(database):
    """SQLite may take no more than 999 parameters in a statement."""
    write(*(finished_at(START, n) for n in range(1200)))

    assert Task.mark_seen([]) == 0
    assert Task.mark_seen(make_id(n) for n in range(2000)) == 1200


@pytest.mark.parametrize("bad", ["x", "", 7, None, b"1", "00000000-0000-0000-0000-00000000000g"])
def test_a_bad_id(sqlite, bad):
    """The error names it, and nothing is marked."""
    write(finished_at(START))
    with pytest.raises(
        ValueError, match=f"{re.escape(repr(bad))} is not a message, a task, or the id"
    ):
        Task.mark_seen([make_id(1), bad])

    assert seen(Task.objects.all()) == []


def test_a_single_id_is_not_a_list():
    """Its characters are none."""
    with pytest.raises(TypeError, match="takes a list of ids"):
        Task.mark_seen(make_id(1))


def test_only_a_users_own(database):
    """For ids that come from a browser."""
    write(finished_at(START, 1, user_pk=7), finished_at(START, 2, user_pk=8))

    assert Task.objects.for_user(7).mark_seen([make_id(1), make_id(2)]) == 1
    assert seen(Task.objects.all()) == [1]
    assert numbers(Task.objects.for_user(8).for_display()) == [2]
    assert numbers(Task.objects.for_display().for_user(8)) == [2]


def test_an_index_finds_what_a_user_is_shown(sqlite):
    """In its order, so that nothing is sorted."""
    plan = Task.objects.for_user(7).for_display().explain()

    assert "taskstate_task_user (tenant=? AND user_id=?)" in plan
    assert "TEMP B-TREE" not in plan


def test_a_user_of_number_zero(database):
    """Django's backend for MariaDB and MySQL rejects it for an automatic key."""
    field = get_user_model()._meta.pk
    try:
        field.get_db_prep_save(0, connections[database])
    except ValueError:
        takes_zero = False
    else:
        takes_zero = True

    assert user_key().takes_zero == takes_zero == (database != "mariadb")


@pytest.mark.parametrize(
    ("field", "kinds"),
    [
        (models.BigAutoField(primary_key=True), (True, False)),
        (models.PositiveIntegerField(primary_key=True), (True, False)),
        (models.UUIDField(primary_key=True), (False, True)),
        (models.CharField(primary_key=True, max_length=9), (False, False)),
    ],
)
def test_the_kind_of_the_users_key(field, kinds, sqlite, monkeypatch):
    """It is read from its field."""
    meta = SimpleNamespace(get_field=lambda name: field)
    monkeypatch.setattr(models_module, "Task", SimpleNamespace(_meta=meta))
    key = models_module.user_key.__wrapped__()

    assert (key.is_integer, key.is_uuid) == kinds


def test_a_text_that_names_a_user(database):
    """By the name, whatever it looks like, and by the key as it is written."""
    User = get_user_model()
    anna = User._base_manager.create(username=" 1_1 ")
    try:
        assert user_keys_matching(" 1_1 ") == [anna.pk]
        assert user_keys_matching("11") == [11]
        for text in ("1_1", "011", "+11", " 11"):
            assert user_keys_matching(text) == []
    finally:
        anna.delete()
