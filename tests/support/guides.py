"""What the guides promise about their blocks: a function for each guide, or for a section of one.

It is called in a project that has the files of the guide, and runs the blocks for the shell itself:
``shell()`` runs the next one, and returns what it printed.
"""

import asyncio
import contextlib
import io
import shutil
import signal
from datetime import timedelta
from unittest import mock

import dramatiq
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser, Group
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connection
from django.template.loader import render_to_string
from django.test import Client, RequestFactory
from django.utils import timezone, translation
from django.utils.module_loading import import_string

import taskstate
from taskstate.models import Task
from taskstate.testing import run_messages, run_task
from tests.support import documents
from tests.support.processes import ROOT


def read(guide):
    """Return the text of a guide, "a.md", or of a section, "a.md#Its heading"."""
    name, _, section = guide.partition("#")
    text = (ROOT / "docs" / "guides" / name).read_text(encoding="utf-8")
    return documents.sections(text)[section] if section else text


def check(guide):
    """Run the blocks of a guide, and check what it promises."""
    call_command("check", databases=["default"], fail_level="WARNING")
    shell = Shell(read(guide))
    CHECKS[guide](shell)
    assert not shell.blocks, "Not all blocks were run."


class Shell:
    """The blocks for the shell that are left, and the names that those before have defined."""

    def __init__(self, text):
        self.blocks = [block for block in documents.blocks(text) if block.kind == "shell"]
        self.names = {"__name__": "__main__"}

    def __call__(self):
        block = self.blocks.pop(0)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            if block.language == "sql":
                with connection.cursor() as cursor:
                    cursor.executescript(block.code)
            else:
                exec(compile(block.code, "a block of the guide", "exec"), self.names)
        return printed.getvalue()


def users(*names):
    return [get_user_model().objects.create_user(name) for name in names]


def signed_in(user, **options):
    browser = Client(**options)
    browser.force_login(user)
    return browser


def ids_for(browser, *tasks):
    """Return the ids of those tasks that a user may see."""
    response = browser.get("/tasks/json/", {"id": [str(task.pk) for task in tasks]})
    return {task["id"] for task in response.json()["tasks"]}


def tracking(shell):
    for _ in range(4):
        shell()
    assert [(task.description, task.user_id, task.status) for task in run_messages()] == [
        ("Export of report 7", 1, "done"),
        ("Conversion of report 7", None, "done"),
        ("Nightly clean-up", None, "done"),
        ("Nightly clean-up", 1, "done"),
        ("Read report 7", 1, "done"),
        ("Write report 7", 1, "done"),
    ]

    shell()
    parent = run_task(shell.names["export_all"], 7, for_state={"user_pk": 1})
    assert len(run_messages()) == 3
    sent = Task.objects.filter(metadata__parent=str(parent.pk), user_id=1)
    assert {task.description for task in sent} == {f"Page {n} of report 7" for n in (1, 2, 3)}

    shell()
    (task,) = run_messages()
    assert (task.actor_name, task.user_id) == ("export", 1)


def progress(shell):
    from shop import tasks

    users("anna")
    task = run_task(tasks.export_rows, [1, 2, 3])
    assert (task.progress, task.progress_text, task.result) == (99, "Sending", {"total": 6})
    task = run_task(tasks.check_users)
    assert (task.progress, task.progress_text) == (100, "Checking users")
    assert run_task(tasks.export_in_thread).progress == 63

    shell.names["taskstate"] = taskstate
    report = dramatiq.actor(lambda: shell() and None, actor_name="report")
    task = run_task(report)
    assert (task.progress, task.progress_text) == (100, "312 rows read")
    assert run_task(report).result == {"url": "/media/report-7.csv"}


def pages(shell):
    from shop import tasks, views

    @dramatiq.actor(throws=ValidationError)
    def export(for_state=None):
        raise ValidationError(["No pages.", "No title."])

    (anna,) = users("anna")
    assert run_task(tasks.charge, 7).user_error == "The bank did not answer."
    task = run_task(export, for_state={"user_pk": anna})
    assert task.user_error == "No pages. No title."

    page = signed_in(anna).get("/tasks/").content.decode()
    assert "<nav>My site</nav>" in page
    assert str(task.pk) in page
    request = RequestFactory().get("/")
    request.user = anna
    assert str(task.pk) in render_to_string("shop/export.html", {"message_id": task.pk}, request)
    assert str(task.pk) in views.exports(request).content.decode()
    assert not Task.objects.exclude(seen_at=None)
    assert str(task.pk) in views.news(request).content.decode()
    assert set(Task.objects.exclude(seen_at=None)) == {task}
    request.user = AnonymousUser()
    assert views.exports(request).status_code == views.news(request).status_code == 302

    if shutil.which("msgfmt"):
        call_command("compilemessages", verbosity=0)
        with translation.override("de"):
            page = render_to_string("shop/export.html", {"message_id": task}, request)
        assert "Fehlgeschlagen" in page


def signals(shell):
    from shop.tasks import export

    @dramatiq.actor(max_retries=0)
    def refuse():
        raise RuntimeError("No pages.")

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        task = run_task(export, 7)
        run_messages()
    assert "export has started\n" in printed.getvalue()
    assert f"Task {task.pk} is done.\n" in printed.getvalue()

    # How Django is told to keep mails in memory depends on its version.
    with mock.patch("shop.receivers.mail_admins") as mail_admins:
        run_task(refuse)
    mail_admins.assert_called_once_with("refuse has failed", "RuntimeError: No pages.")


def retention(shell):
    from shop.tasks import clean_up

    assert clean_up.options["periodic"] == "0 3 * * *"
    for days, send, stays in ((40, shell, False), (20, clean_up, True), (40, clean_up, False)):
        Task.objects.all().delete()
        young, old = run_task(clean_up), run_task(clean_up)
        then = timezone.now() - timedelta(days=days)
        Task.objects.filter(pk=old.pk).update(enqueued_at=then, updated_at=then)
        send()
        run_messages()
        assert set(Task.objects.all()) == ({young, old} if stays else {young})
    assert not dramatiq.get_broker().dead_letters


def resending(shell):
    from shop.encoders import Encoder

    assert type(dramatiq.get_encoder()) is Encoder
    actor = dramatiq.get_broker().get_actor("export")
    actor.options["max_retries"] = 0
    task = run_task(actor)  # Without its argument.
    assert (task.status, bool(task.stored_message)) == ("failed", True)
    text, _, key = shell().strip().rpartition(" ")
    assert text == "export was sent again as", text
    assert [str(task.pk) for task in run_messages()] == [key]


def schemas(shell):
    import shop.receivers  # noqa: F401

    # What django-tenants adds to a connection.
    connection.set_schema = lambda name: setattr(connection, "schema_name", name)
    connection.set_schema_to_public = lambda: connection.set_schema("public")
    seen = []

    @dramatiq.actor
    def work(for_state=None):
        seen.append(connection.schema_name)

    (anna,) = users("anna")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for schema in ("acme", "public"):
            connection.set_schema(schema)
            work.send(for_state={"user_pk": anna, "description": schema})
        tasks = run_messages()
    assert [(task.tenant, task.description) for task in tasks] == [("acme", "acme"), ("", "public")]
    assert seen == ["acme", "public"]
    assert connection.schema_name == "public"
    assert printed.getvalue() == "acme is done: anna\n"


def columns(shell):
    from shop.tasks import export

    (anna,) = users("anna")
    for host in ("acme.localhost", "other.localhost"):
        middleware = import_string(settings.MIDDLEWARE[-1])
        view = middleware(lambda _: export.send(7, for_state={"user_pk": anna}))
        view(RequestFactory(HTTP_HOST=host).get("/"))
    acme, other = run_messages()
    assert (acme.tenant, other.tenant) == ("acme", "other")
    assert ids_for(signed_in(anna, HTTP_HOST="acme.localhost"), acme, other) == {str(acme.pk)}


def teams(shell):
    from shop.tasks import export

    anna, bert, carl = users("anna", "bert", "carl")
    sales = Group.objects.create(name="Sales")
    sales.user_set.add(anna, bert)
    task = run_task(export, 7, for_state={"user_pk": anna})
    assert [len(ids_for(signed_in(user), task)) for user in (anna, bert, carl)] == [1, 1, 0]


def deployment(shell):
    from mysite.asgi import application
    from shop.tasks import export

    assert settings.DATABASES["default"]["DISABLE_SERVER_SIDE_CURSORS"]
    shell()
    with contextlib.suppress(SystemExit):
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("SIGTERM did not raise.")

    export.send(7, for_state={})
    assert taskstate.stats().pending == 1
    events = iter(["lifespan.startup", "lifespan.shutdown"])
    sent = []

    async def receive():
        return {"type": next(events)}

    async def send(event):
        sent.append(event["type"])

    asyncio.run(application({"type": "lifespan"}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert Task.objects.get().actor_name == "export"


#: What the guide says about the tables of 0.3.4, and a row.
OLD_TABLES = """
CREATE TABLE taskstate_task (
    message_id char(32), message_data blob, status text, actor_name text, queue_name text,
    user_id integer, description text, model_name text, app_name text, created_date datetime,
    last_modified datetime, progress integer, results text, seen_at datetime);
CREATE TABLE taskstate_channel (id integer);
INSERT INTO django_migrations (app, name, applied) VALUES ('taskstate', '0001_initial', 0);
INSERT INTO taskstate_task VALUES (
    '0b2c0000000000000000000000000000', '{}', 'done', 'export', 'default.DQ', 1, 'Old', NULL, NULL,
    '2026-01-02 03:04:05', '2026-01-02 03:04:06', 0, NULL, NULL);
"""


def upgrading(shell):
    call_command("migrate", "taskstate", "zero", verbosity=0)
    with connection.cursor() as cursor:
        cursor.executescript(OLD_TABLES)
    with contextlib.suppress(SystemCheckError):
        call_command("migrate", skip_checks=False, verbosity=0)
        raise AssertionError("migrate did not stop.")
    shell()
    call_command("migrate", skip_checks=False, verbosity=0)
    shell()
    task = Task.objects.get()
    assert (task.description, task.status, task.queue_name) == ("Old", "done", "default")
    assert (task.user_id, task.progress, task.result) == (1, None, None)
    assert task.finished_at == task.updated_at > task.enqueued_at
    assert "taskstate_task_034" not in connection.introspection.table_names()


#: The guides whose blocks are run; a section is one that can't be in a project with the others.
CHECKS = {
    "tracking.md": tracking,
    "progress.md": progress,
    "pages.md": pages,
    "signal.md": signals,
    "retention.md": retention,
    "resending.md": resending,
    "tenants.md#A schema per tenant": schemas,
    "tenants.md#A column": columns,
    "tenants.md#Teams": teams,
    "deployment.md": deployment,
    "upgrading.md": upgrading,
}
