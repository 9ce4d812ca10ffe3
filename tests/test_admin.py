"""Tasks in Django's admin: what is shown to whom, what can be done, and what it costs."""

import contextlib
import datetime
import re
from pathlib import Path

import dramatiq
import pytest
from django.contrib.admin import options
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone, translation

from taskstate.admin import changelist
from taskstate.admin.timeline import duration, timeline
from taskstate.models import Status, Task
from tests.factories import make_id
from tests.processes import environment, run_script
from tests.test_resending import broker, broker_away, stored  # noqa: F401 - fixtures

LIST = "/admin/taskstate/task/"
NOON = datetime.datetime(2026, 3, 5, 12, tzinfo=datetime.timezone.utc)


@pytest.fixture
def people(database):
    """Users, in the default database, wherever the tasks are."""
    remove_people()
    yield get_user_model().objects
    remove_people()


def remove_people():
    LogEntry.objects.all().delete()
    get_user_model().objects.all().delete()


@pytest.fixture
def admin(people):
    """The browser of somebody who may do everything."""
    client = Client()
    client.force_login(people.create_superuser("admin"))
    return client


@pytest.fixture
def login(people):
    """A function that makes the browser of somebody with these permissions."""

    def make(*actions):
        user = people.create(username="staff", is_staff=True)
        content_type = ContentType.objects.get_for_model(Task, for_concrete_model=False)
        for action in actions:
            codename = f"{action}_task"
            user.user_permissions.add(
                Permission.objects.get(content_type=content_type, codename=codename)
            )
        client = Client()
        client.force_login(user)
        return client

    return make


def add(number, status=Status.DONE, **values):
    at = NOON + datetime.timedelta(minutes=number)
    return Task.objects.create(
        **{
            "message_id": make_id(number),
            "status": status,
            "actor_name": "act",
            "queue_name": "q",
            "enqueued_at": at,
            "updated_at": at,
            "rank": 1,
            **values,
        }
    )


def look(client, query=""):
    response = client.get(LIST + query)
    assert response.status_code == 200
    return response


def ids(client, query=""):
    return [task.message_id.int for task in look(client, query).context["cl"].result_list]


def page(client, number):
    response = client.get(f"{LIST}{make_id(number)}/change/")
    assert response.status_code == 200
    return response.content.decode()


def messages_of(response):
    return [str(message) for message in response.context["messages"]]


def act(client, action, *numbers, **more):
    data = {"action": action, "_selected_action": [make_id(number) for number in numbers], **more}
    return client.post(LIST, data, follow=True)


@contextlib.contextmanager
def queries(database):
    """Collect the statements of all databases that play a part."""
    found = []
    with contextlib.ExitStack() as stack:
        contexts = [
            stack.enter_context(CaptureQueriesContext(connections[alias]))
            for alias in sorted({"default", database})
        ]
        yield found
    for context in contexts:
        found.extend(query["sql"] for query in context.captured_queries)


# The list.


def test_the_list_shows_what_there_is_to_know(admin, people):
    """In words, not by colour alone; whatever a text holds is shown as text."""
    anna = people.create(username="anna")
    for number, status in enumerate(Status, start=1):
        add(number, status, user_id=anna.pk)
    add(8, Status.RUNNING, progress=37.5, progress_text="row <3>", description="<b>export</b>")
    add(9, Status.FAILED, error="ValueError: <i>", user_id=anna.pk + 1)
    html = look(admin).content.decode()

    for status in Status:
        assert f'taskstate-{status.value}">{status.label}</span>' in html
    assert 'value="37.50"' in html
    assert "37%" in html
    for text in ("row &lt;3&gt;", "&lt;b&gt;export", "ValueError: &lt;i&gt;"):
        assert text in html
    assert "anna</a>" in html
    assert f"{anna.pk + 1} (deleted)</a>" in html


def test_newest_first_in_whatever_order_is_asked_for(admin):
    """Any other one would have to sort all rows."""
    for number in (2, 3, 1):
        add(number)

    assert ids(admin) == ids(admin, "?o=1") == ids(admin, "?o=-3.2") == [3, 2, 1]


def test_as_many_queries_for_five_rows_as_for_a_hundred(admin, people, database):
    """With users and without, with filters and without."""
    users = [people.create(username=f"user{number}") for number in range(100)]
    for query in ("", "?status__exact=done", "?q=export", "?user=user1", "?enqueued_at__year=2026"):
        counts = []
        for size in (5, 100):
            Task.objects.all().delete()
            for number in range(1, size + 1):
                user_id = users[0].pk + 500 if number == 3 else users[number % 100].pk
                add(number, user_id=user_id, description="export", traceback="x")
            with queries(database) as found:
                look(admin, query)
            counts.append(len(found))
            assert not any("traceback" in sql for sql in found)
        assert counts[0] == counts[1], query
        assert counts[0] <= 10


def test_no_question_is_asked_of_all_rows(admin, database, monkeypatch):
    """Each has a limit, or a bound that an index knows."""
    for number in range(1, 30):
        add(number)
    monkeypatch.setattr(changelist, "SCAN_LIMIT", 10)
    for query in ("", "?status__exact=done", "?q=act", "?actor=x", "?enqueued_at__month=3"):
        with queries(database) as found:
            look(admin, query)
        of_tasks = [sql for sql in found if re.search(r"FROM .taskstate_task.", sql)]
        assert len(of_tasks) >= 4
        for sql in of_tasks:
            assert re.search(r"LIMIT \d+", sql), sql
            assert "DISTINCT" not in sql
            # As the index on MariaDB ends: whatever else follows would sort all rows there.
            assert "LIMIT 200" not in sql or re.search(r"DESC, \S+message_id. ASC LIMIT", sql), sql
            assert "WHERE" not in sql or re.search(r"enqueued_at. >= ", sql), sql


def test_what_no_index_tells_is_looked_for_among_the_newest(admin, monkeypatch, people):
    """Of all, or of the chosen user and date; the page says so."""
    monkeypatch.setattr(changelist, "SCAN_LIMIT", 3)
    anna = people.create(username="anna")
    for number in range(1, 10):
        user_id = anna.pk if number in {1, 2} else None
        add(number, Status.FAILED if number % 2 else Status.DONE, user_id=user_id)
    add(20 * 1440, description="of another day")

    assert ids(admin, "?status__exact=failed") == [9]
    assert "Only the newest 3 tasks were searched" in look(admin, "?q=act").content.decode()
    assert ids(admin, "?status__exact=failed&user=anna") == [1]
    day = "enqueued_at__year=2026&enqueued_at__month=3&enqueued_at__day=5"
    assert ids(admin, f"?status__exact=failed&{day}") == [9, 7]
    assert "were searched" not in look(admin, f"?{day}&user=anna").content.decode()
    assert len(ids(admin)) == 10


def test_no_more_are_counted_than_are_listed(admin, monkeypatch):
    """And the page says that there are more."""
    monkeypatch.setattr(changelist, "LIST_LIMIT", 3)
    for number in range(1, 6):
        add(number)
    response = look(admin)

    assert response.context["cl"].result_count == 3
    assert "Only the newest 3 are listed" in response.content.decode()


def test_search(admin, monkeypatch):
    """By the id, however old; by all words in description and actor, by the case of none."""
    monkeypatch.setattr(changelist, "SCAN_LIMIT", 3)
    add(1, description="Yearly report")
    add(2, description="Yearly report 100%")
    add(3, actor_name="make_report", description="of the YEAR")
    add(4)

    assert ids(admin, f"?q={make_id(1)}") == ids(admin, f"?q=+{make_id(1)}+") == [1]
    assert ids(admin, f"?q={make_id(99)}") == []
    assert ids(admin, "?q=report+year") == [3, 2]
    assert ids(admin, "?q=%25") == [2]
    assert ids(admin, "?q=report_year") == []


def test_a_search_of_many_words(admin):
    """The first ten count: no database takes thousands of conditions."""
    add(1, description=" ".join("abcdefghij"))

    assert ids(admin, "?q=" + "+".join("abcdefghij" + "z" * 3000)) == [1]
    assert ids(admin, "?q=" + "+".join("abcdefghiz")) == []


def test_filters(admin, broker, people):  # noqa: F811
    """By what the broker declares; by a user's name or key, of whoever is gone as well."""
    anna = people.create(username="anna")
    add(1, user_id=anna.pk, queue_name="other")
    add(2, Status.FAILED, actor_name="gone", user_id=anna.pk + 7)
    html = look(admin).content.decode()

    assert "?actor=act" in html
    assert "?queue=q" in html
    assert "q.DQ" not in html
    assert ids(admin, "?actor=gone") == ids(admin, "?status__exact=failed") == [2]
    assert ids(admin, "?queue=other") == [1]
    assert ids(admin, "?user=anna") == ids(admin, f"?user={anna.pk}") == [1]
    assert ids(admin, f"?user={anna.pk + 7}") == [2]
    assert ids(admin, "?user=nobody") == ids(admin, "?actor=nobody") == []
    assert len(ids(admin, "?user=%00&actor=%00&queue=")) == 2
    # The name of one may be the key of another.
    people.create(username=str(anna.pk + 7))
    assert ids(admin, f"?user={anna.pk + 7}") == [2]


@pytest.mark.parametrize("key", ["9" * 30, "-1", "1.5", "²", "٣"])
def test_a_key_that_no_user_can_have(admin, key):
    """It finds nothing."""
    add(1)

    assert ids(admin, f"?user={key}") == []


def test_dates_are_those_of_the_site(admin):
    """Kolkata is ahead of UTC; each day between the oldest and the newest task is offered."""
    late = datetime.datetime(2026, 3, 4, 20, tzinfo=datetime.timezone.utc)
    add(1, enqueued_at=late)
    add(2, enqueued_at=late + datetime.timedelta(days=2))

    links = look(admin).context["cl"].date_links()
    assert [choice["title"] for choice in links["choices"]] == ["March 5", "March 6", "March 7"]
    month = "?enqueued_at__year=2026&enqueued_at__month=3"
    assert ids(admin, f"{month}&enqueued_at__day=5") == [1]
    assert ids(admin, f"{month}&enqueued_at__day=6") == []
    assert "March 6" in look(admin, f"{month}&enqueued_at__day=6").content.decode()
    add(3, enqueued_at=late.replace(year=2024))
    links = look(admin).context["cl"].date_links()
    assert [choice["title"] for choice in links["choices"]] == ["2024", "2025", "2026"]
    links = look(admin, "?enqueued_at__year=2026").context["cl"].date_links()
    titles = [choice["title"] for choice in links["choices"]]
    assert titles == ["January 2026", "February 2026", "March 2026"]
    assert admin.get(f"{LIST}?enqueued_at__year=x").status_code == 302


def test_no_tasks_at_all(admin):
    """The list is empty, and nothing breaks."""
    assert ids(admin) == ids(admin, "?q=x") == []


# A task's page.


def test_a_tasks_page_shows_everything(admin, people):
    """Nobody can change anything, and whatever a text holds is shown as text."""
    add(
        1,
        Status.FAILED,
        user_id=4711,
        error="ValueError: <b>",
        traceback="Traceback <script>alert(1)</script>",
        metadata={"a": "<u>"},
        result=[1, "Grüße"],
        worker="host:7",
        app_name="shop",
        model_name="Report",
        stored_message=stored(),
    )
    html = page(admin, 1)

    for text in (
        "ValueError: &lt;b&gt;",
        "Traceback &lt;script&gt;alert(1)",
        "&quot;a&quot;: &quot;&lt;u&gt;&quot;",
        "&quot;Grüße&quot;",
        "host:7",
        "shop.Report",
        "4711 (deleted)",
        "&quot;actor_name&quot;: &quot;act&quot;",
        make_id(1),
    ):
        assert text in html, text
    assert 'name="_save"' not in html
    assert '<input type="text" name="description"' not in html


def test_a_page_leaves_out_what_there_is_not(admin):
    """No empty sections; a stored message of whatever form is shown."""
    add(1, stored_message="no JSON")
    html = page(admin, 1)

    assert "no JSON" in html
    for title in ("Failure", "Result", "Metadata", "Progress"):
        assert title not in html
    assert admin.get(f"{LIST}{make_id(2)}/change/").status_code == 302
    assert admin.get(f"{LIST}nonsense/change/").status_code == 302


def test_the_pages_work_under_a_strict_content_security_policy(admin):
    """Neither scripts nor styles stand in the page."""
    add(1, Status.FAILED, progress=5, error="x", traceback="x", stored_message=stored())
    for html in (look(admin).content.decode(), page(admin, 1)):
        assert "taskstate/admin.css" in html
        assert not re.search(r"<[^>]* (style|on\w+)=", html)
        assert not re.search(r"<style|<script(?![^>]* src=)", html)


def describe(status, **values):
    now = timezone.now()
    early = now - datetime.timedelta(hours=1)
    task = Task(status=status, **{"enqueued_at": early, "updated_at": early, **values})
    with translation.override("en"):
        return [(event.title, event.note) for event in timeline(task)]


def test_the_timeline_says_what_a_task_waits_for():
    """A worker, its time, or nothing any more."""
    now = timezone.now()
    minutes = datetime.timedelta(minutes=1)
    early = now - 60 * minutes
    soon, started = now + 5.5 * minutes, early + minutes

    assert describe(Status.ENQUEUED) == [
        ("Enqueued", ""),
        ("Waiting for a worker, for 1 h", "attempt 1"),
    ]
    *_, failed, due = describe(
        Status.DELAYED, attempt=2, started_at=started, error="E: x", next_attempt_at=soon
    )
    assert failed == ("Attempt 2 failed", "E: x")
    assert re.fullmatch(r"Due in 5 min \d+ s", due[0])
    assert due[1] == "retry 2"
    sent = describe(Status.DELAYED, next_attempt_at=soon)
    assert [note for _, note in sent] == ["", "it was sent with a delay"]
    late = describe(Status.DELAYED, next_attempt_at=now - 3 * minutes)
    assert re.fullmatch(r"Due since 3 min \d s, waiting for a worker", late[-1][0])
    assert describe(Status.DELAYED)[-1][0] == "Waiting until it is due"
    running = describe(Status.RUNNING, enqueued_at=early, started_at=started, worker="h:7")
    assert running[1:] == [
        ("Started", "after waiting for 1 min 0 s"),
        ("Running, attempt 1", "on h:7"),
    ]


def test_the_timeline_says_how_a_task_ended():
    """And when it was marked as lost."""
    now = timezone.now()
    started = now - datetime.timedelta(seconds=70)

    done = describe(Status.DONE, started_at=started, finished_at=now)
    assert done[-1] == ("Done", "after 1 min 10 s")
    failed = describe(Status.FAILED, finished_at=now, attempt=2, error="E: x")
    assert failed == [("Enqueued", ""), ("Failed", "E: x, at attempt 3")]
    assert "lost" in describe(Status.FAILED, finished_at=now, error="lost")[-1][1]
    assert describe(Status.SKIPPED, finished_at=now)[-1] == ("Skipped", "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0.049, "0.05 s"),
        (9.5, "9.5 s"),
        (59.9, "59 s"),
        (60, "1 min 0 s"),
        (3_725, "1 h 2 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations_read_well(seconds, text):
    """In their two greatest units; hosts' clocks may differ."""
    assert duration(seconds) == text


def test_naive_times(settings, admin):
    """A site without time zones has them."""
    settings.USE_TZ = False
    now = datetime.datetime.now()  # noqa: DTZ005 - that is the point
    add(1, Status.RUNNING, enqueued_at=now, updated_at=now, started_at=now)
    add(2, Status.DELAYED, enqueued_at=now, updated_at=now, next_attempt_at=now)

    assert len(ids(admin, f"?enqueued_at__year={now.year}")) == 2
    assert "Running" in page(admin, 1)
    assert "Due since" in page(admin, 2)


# Who may do what.


def test_who_may_see(login, people):
    """Those with Django's permission."""
    add(1)

    assert login().get(LIST).status_code == 403
    people.all().delete()
    client = login("view")
    assert ids(client) == [1]
    assert "send_again" not in look(client).content.decode()
    assert client.get(f"{LIST}add/").status_code == 403
    assert client.post(f"{LIST}{make_id(1)}/change/", {"description": "x"}).status_code == 403
    assert client.post(f"{LIST}{make_id(1)}/delete/", {"post": "yes"}).status_code == 403
    assert Task.objects.get().description == ""


def test_delete(login, database):
    """One or several, with Django's permission, in the database that they are in."""
    client = login("view", "delete")
    for number in range(1, 5):
        add(number, user_id=99)
    client.post(f"{LIST}{make_id(1)}/delete/", {"post": "yes"})
    assert ids(client) == [4, 3, 2]
    act(client, "delete_selected", 2, 3, post="yes")

    assert [task.pk.int for task in Task.objects.using(database)] == [4]


def test_nothing_acts_on_more_than_a_page(admin):
    """All of it would be read at once."""
    add(1)
    add(2)
    response = act(admin, "delete_selected", 1, post="yes", select_across="1")

    assert "Select tasks on one page" in messages_of(response)[0]
    assert Task.objects.count() == 2


def test_send_again(login, broker, people):  # noqa: F811
    """With the permission to change tasks; each is noted in the admin's log."""
    add(1, Status.FAILED, stored_message=stored())
    add(2, Status.FAILED, stored_message=stored(args=[2]))
    add(3, Status.FAILED)
    add(4, Status.FAILED, stored_message=stored(actor_name="gone"))
    client = login("view", "change")
    response = act(client, "send_again", 1, 2, 3, 4)

    assert messages_of(response) == [
        "2 tasks were sent again.",
        "1 task was not sent again: Its message was not stored (TASKSTATE['STORE_MESSAGE']).",
        "1 task was not sent again: This process doesn't know the actor gone.",
    ]
    queue = broker.queues["q"]
    sent = [dramatiq.Message.decode(queue.get_nowait()) for _ in range(2)]
    assert [message.args for message in sent] == [(1, "Grüße"), (2,)]
    entries = {entry.object_id: entry.change_message for entry in LogEntry.objects.all()}
    assert entries == {
        make_id(number): f"Sent again as message {message.message_id}."
        for number, message in enumerate(sent, start=1)
    }


def test_send_again_while_the_broker_is_away(admin, broker_away):  # noqa: F811
    """It isn't tried once for each task, as long as that takes."""
    for number in (1, 2, 3):
        add(number, stored_message=stored())
    response = act(admin, "send_again", 1, 2, 3)

    text = "3 tasks were not sent again: The broker did not take it (OSError)."
    assert messages_of(response) == [text]
    assert LogEntry.objects.count() == 0


@pytest.mark.skipif(not hasattr(options, "ActionLocation"), reason="Django 6.1 and later")
def test_send_again_from_a_tasks_page(login, broker, people, monkeypatch):  # noqa: F811
    """Where Django lets an action stand there; after the transaction that it opens for the page."""
    in_transaction = []

    def enqueue(message, *, delay=None):
        in_transaction.append(connections["default"].in_atomic_block)
        return enqueue_really(message, delay=delay)

    enqueue_really = broker.enqueue
    monkeypatch.setattr(broker, "enqueue", enqueue)
    add(1, stored_message=stored())
    client = login("view", "change")
    assert "send_again" in page(client, 1)
    data = {"CHANGE_FORM-action": "send_again", "_selected_action": make_id(1)}
    response = client.post(f"{LIST}{make_id(1)}/change/", data, follow=True)

    assert messages_of(response) == ["1 task was sent again."]
    assert in_transaction == [False]
    assert broker.queues["q"].qsize() == 1
    people.all().delete()
    assert "send_again" not in page(login("view"), 1)


# Where there is no admin.


def test_it_works_without_the_admin():
    """A site that hasn't installed Django's admin never imports ours."""
    script = """
import os, sys
from tests import settings
settings.INSTALLED_APPS = [
    name for name in settings.INSTALLED_APPS if name.startswith(("django_", "taskstate"))
] + ["django.contrib.auth", "django.contrib.contenttypes"]
del settings.ROOT_URLCONF
import django
django.setup()
from django.core.management import call_command
call_command("check")
import taskstate.models
assert "taskstate.admin" not in sys.modules
assert "django.contrib.admin" not in sys.modules
"""
    run_script(script, environment("default", DJANGO_SETTINGS_MODULE="tests.settings"))


def test_the_pages_files_are_beside_the_code():
    """The package's data: templates and stylesheet."""
    root = Path(changelist.__file__).parent.parent
    found = {path.name for path in root.rglob("*") if path.suffix in {".html", ".css"}}

    assert {"admin.css", "change_list.html", "timeline.html", "user_filter.html"} <= found
