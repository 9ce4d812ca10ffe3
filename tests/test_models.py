"""The ``Task`` model: its columns, its queries, its migration."""

import io

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser, Group
from django.core.management import call_command
from django.db import connections

from taskstate.models import Status, Task
from taskstate.stores.orm import OrmStore
from tests.conftest import use_database
from tests.factories import START, make_entry, make_id, make_transition


def write(*facts):
    OrmStore().write([make_entry(fact) for fact in facts])


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
    """Whatever a router says: that is where the rows are written."""
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


def test_the_user_has_no_reverse_name():
    """Nothing that could clash with a project's own."""
    assert not any(field.related_model is Task for field in get_user_model()._meta.get_fields())


def test_deleting_a_user_leaves_the_task(database):
    """The task says who it was for, and no delete has to look for tasks."""
    user = get_user_model().objects.using(database).create(username="anna")
    pk = user.pk
    write(make_transition(user_pk=pk))
    user.delete()

    assert Task.objects.get().user_id == pk


def test_no_index_holds_what_changes():
    """So that PostgreSQL can update a row in its own page."""
    changing = {"status", "attempt", "started_at", "finished_at", "updated_at", "rank"}
    indexed = {name.lstrip("-") for index in Task._meta.indexes for name in index.fields}
    indexed |= {field.name for field in Task._meta.fields if field.db_index or field.unique}

    assert indexed == {"message_id", "enqueued_at", "user", "app_name", "model_name"}
    assert not indexed & changing


def test_postgresql_leaves_room_in_its_pages(settings, django_db_setup, django_db_blocker):
    """So that an update finds room in the page of its row."""
    query = "SELECT reloptions FROM pg_class WHERE relname = 'taskstate_task'"
    database = use_database("postgres", settings, django_db_blocker)
    with database as alias, connections[alias].cursor() as cursor:
        cursor.execute(query)
        assert cursor.fetchone() == (["fillfactor=50"],)
