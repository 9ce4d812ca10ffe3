"""Tasks in Django's admin: what is shown to whom, what can be done, and what it costs."""

import contextlib
import datetime
import re
from html import unescape
from pathlib import Path

import dramatiq
import pytest
from django.contrib.admin import ChoicesFieldListFilter, DateFieldListFilter, options, site
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.db import OperationalError, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone, translation
from django.utils.html import strip_tags

from taskstate.admin import TaskAdmin, changelist, filters
from taskstate.admin.timeline import timeline
from taskstate.models import Status, Task
from tests.support.admin import LIST, act, add, ids, look, page
from tests.support.factories import make_id
from tests.support.processes import environment, run_script
from tests.support.resending import stored

#: What the action "Send again" is for.
UNSUCCESSFUL = {Status.FAILED, Status.SKIPPED}


@pytest.fixture
def login(people):
    """A function that returns a client, signed in as a user with these permissions."""

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


def messages_of(response):
    return [str(message) for message in response.context["messages"]]


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
    """In words, not by color alone; each text is shown as text, whatever it holds."""
    anna = people.create(username="anna")
    for number, status in enumerate(Status, start=1):
        add(number, status, user_id=anna.pk)
    add(8, Status.RUNNING, progress=37.5, progress_text="row <3>", description="<b>export</b>")
    add(9, Status.FAILED, error="ValueError: <i>", user_id=anna.pk + 1)
    html = look(admin).content.decode()

    for status in Status:
        assert f'taskstate-{status.value}">{status.label}</span>' in html
    assert 'value="37.50" aria-label="Progress of &lt;b&gt;export&lt;/b&gt;"' in html
    assert "37 %" in html
    for text in ("row &lt;3&gt;", "&lt;b&gt;export", "ValueError: &lt;i&gt;"):
        assert text in html
    assert "anna</bdi></a>" in html
    assert f"{anna.pk + 1} (deleted)</bdi></a>" in html


def test_newest_first_in_whatever_order_is_asked_for(admin):
    """Any other one would have to sort all rows."""
    for number in (2, 3, 1):
        add(number)

    assert ids(admin) == ids(admin, "?o=1") == ids(admin, "?o=-3.2") == [3, 2, 1]


def test_as_many_queries_for_five_rows_as_for_a_hundred(admin, people, database):
    """With users and without, with filters and without."""
    users = [people.create(username=f"user{number}") for number in range(100)]
    for query in ("", "?status__exact=done", "?q=export", "?user=user1", "?day=2026-03-05"):
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


def test_no_query_reads_all_rows(admin, database, monkeypatch):
    """Each has a limit, or a condition that an index supports."""
    for number in range(1, 30):
        add(number)
    monkeypatch.setattr(changelist, "SCAN_LIMIT", 10)
    for query in (
        "",
        "?status__exact=done",
        "?q=act",
        "?actor=x",
        "?status__exact=done&day=2026-03-05",
    ):
        with queries(database) as found:
            look(admin, query)
        of_tasks = [sql for sql in found if re.search(r"FROM .taskstate_task.", sql)]
        assert len(of_tasks) >= 2
        for sql in of_tasks:
            assert re.search(r"LIMIT \d+", sql), sql
            assert "DISTINCT" not in sql
            # As the index on MariaDB ends: whatever else follows would sort all rows there.
            assert "LIMIT 200" not in sql or re.search(r"DESC, \S+message_id. ASC LIMIT", sql), sql
            assert "WHERE" not in sql or re.search(r"enqueued_at. >= ", sql), sql


def test_what_no_index_covers_is_looked_for_among_the_newest(admin, monkeypatch, people):
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
    day = "day=2026-03-05"
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
    assert "Only the newest 3 tasks are listed" in response.content.decode()


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


def test_filters(admin, broker, people):
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
    assert len(ids(admin, "?user=&actor=&queue=")) == 2
    # The name of one may be the key of another.
    people.create(username=str(anna.pk + 7))
    assert ids(admin, f"?user={anna.pk + 7}") == [2]


@pytest.mark.parametrize(
    ("list_filter", "parameters"),
    [
        ("status", {"status__exact"}),
        (("status", ChoicesFieldListFilter), {"status__exact"}),
        (("updated_at", DateFieldListFilter), {"updated_at__gte", "updated_at__lt"}),
        (filters.ActorFilter, {"actor"}),
    ],
)
def test_a_site_may_choose_other_filters(list_filter, parameters, monkeypatch):
    """In a subclass of ``TaskAdmin``; the list allows their parameters and no others."""
    monkeypatch.setattr(TaskAdmin, "list_filter", [list_filter])
    task_admin = site._registry[Task]
    candidates = {
        *("status", "status__exact", "status__regex", "actor", "queue", "day", "user"),
        *("updated_at__gte", "updated_at__lt", "updated_at__year", "enqueued_at__gte"),
    }

    assert {each for each in candidates if task_admin.lookup_allowed(each, "")} == parameters


@pytest.mark.parametrize("key", ["9" * 30, "-1", "1.5", "²", "٣"])
def test_a_key_that_no_user_can_have(admin, key):
    """It finds nothing."""
    add(1)

    assert ids(admin, f"?user={key}") == []


def test_days_are_those_of_the_site(admin):
    """Kolkata is ahead of UTC."""
    late = datetime.datetime(2026, 3, 4, 20, tzinfo=datetime.timezone.utc)
    add(1, enqueued_at=late)
    add(2, enqueued_at=late + datetime.timedelta(days=2))

    assert ids(admin, "?day=2026-03-04") == []
    assert ids(admin, "?day=2026-03-05") == [1]
    assert ids(admin, "?day=2026-03-06") == []
    assert ids(admin, "?day=2026-03-07") == [2]
    assert len(ids(admin, "?day=")) == 2
    html = look(admin, "?day=2026-03-05&actor=act").content.decode()
    assert '<input type="date" id="taskstate-day" name="day" value="2026-03-05"' in html
    assert '<input type="hidden" name="actor" value="act">' in html
    assert admin.get(f"{LIST}?day=x").status_code == 302


@pytest.mark.parametrize("use_tz", [True, False])
def test_the_periods_of_django(use_tz, settings, admin, monkeypatch):
    """The list links to each, with times that a site with or without time zones understands."""
    settings.USE_TZ = use_tz
    now = datetime.datetime(2026, 3, 15, 12, tzinfo=datetime.timezone.utc if use_tz else None)
    monkeypatch.setattr(timezone, "now", lambda: now)
    for number, days in enumerate([0, 3, 13, 20, 100], start=1):
        at = now - datetime.timedelta(days=days)
        add(number, enqueued_at=at, updated_at=at)
    html = unescape(look(admin).content.decode())
    links = re.findall(r'<a href="(\?enqueued_at__[^"]+)"[^>]*>([^<]+)</a>', html)

    assert {title.strip(): ids(admin, query) for query, title in links} == {
        "Today": [1],
        "Past 7 days": [1, 2],
        "This month": [1, 2, 3],
        "This year": [1, 2, 3, 4],
    }


def test_no_tasks_at_all(admin):
    """The list is empty, and nothing breaks."""
    assert ids(admin) == ids(admin, "?q=x") == []


# A task's page.


def test_a_tasks_page_shows_everything(admin, people):
    """Nothing can be changed, and each text is shown as text, whatever it holds."""
    add(
        1,
        Status.FAILED,
        user_id=4711,
        error="ValueError: <b>",
        user_error="It has <i>failed",
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
        "It has &lt;i&gt;failed",
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


def test_the_stylesheet_serves_languages_of_both_directions():
    """It says start and end; left and right would have to be turned around."""
    path = Path(changelist.__file__).parent.parent / "static" / "taskstate" / "admin.css"

    assert re.findall(r"[\w-]*\b(?:left|right)\b[\w-]*", path.read_text(encoding="utf-8")) == []


def summarize(status, **values):
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

    assert summarize(Status.ENQUEUED) == [
        ("Enqueued", ""),
        ("Waiting for a worker for 1 h", "attempt 1"),
    ]
    *_, failed, due = summarize(
        Status.DELAYED, attempt=3, started_at=started, error="E: x", next_attempt_at=soon
    )
    assert failed == ("Attempt 2 failed", "E: x")
    assert re.fullmatch(r"Due in 5 min \d+ s", due[0])
    assert due[1] == "attempt 3"
    sent = summarize(Status.DELAYED, next_attempt_at=soon)
    assert [note for _, note in sent] == ["", "sent with a delay"]
    late = summarize(Status.DELAYED, next_attempt_at=now - 3 * minutes)
    assert re.fullmatch(r"Due 3 min \d s ago, waiting for a worker", late[-1][0])
    assert summarize(Status.DELAYED)[-1][0] == "Waiting until it is due"
    running = summarize(Status.RUNNING, enqueued_at=early, started_at=started, worker="h:7")
    assert running[1:] == [
        ("Started", "after waiting for 1 min 0 s"),
        ("Running, attempt 1", "on h:7"),
    ]


def test_the_timeline_says_how_a_task_ended():
    """And when it was marked as lost."""
    now = timezone.now()
    started = now - datetime.timedelta(seconds=70)

    done = summarize(Status.DONE, started_at=started, finished_at=now)
    assert done[-1] == ("Done", "after 1 min 10 s")
    failed = summarize(Status.FAILED, finished_at=now, attempt=3, error="E: x")
    assert failed == [("Enqueued", ""), ("Failed", "E: x, at attempt 3")]
    assert "lost" in summarize(Status.FAILED, finished_at=now, error="lost")[-1][1]
    assert summarize(Status.SKIPPED, finished_at=now)[-1] == ("Skipped", "")


def test_naive_times(settings, admin):
    """A site without time zones has them."""
    settings.USE_TZ = False
    now = datetime.datetime.now()  # noqa: DTZ005 - that is the point
    add(1, Status.RUNNING, enqueued_at=now, updated_at=now, started_at=now)
    add(2, Status.DELAYED, enqueued_at=now, updated_at=now, next_attempt_at=now)

    assert len(ids(admin, f"?day={now:%Y-%m-%d}")) == 2
    assert "Running" in page(admin, 1)
    assert "ago, waiting for a worker" in page(admin, 2)


# Who may do what.


def test_who_may_see(login, people):
    """Those with Django's permission."""
    add(1)

    assert login().get(LIST).status_code == 403
    people.all().delete()
    client = login("view")
    assert ids(client) == [1]
    assert "resend" not in look(client).content.decode()
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


def words(response):
    """The messages of the admin as text, with the ids of new tasks left out."""
    return [
        re.sub(r"\([0-9a-f]{8}\)", "(new)", text) if " was sent" in text else text
        for text in (unescape(strip_tags(message)) for message in messages_of(response))
    ]


def name(number):
    return f"act ({make_id(number)[:8]})"


def hidden_fields(response):
    """What a form sends that asks: the name and the value of each hidden field."""
    html = response.content.decode()
    found = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', html)
    data = {}
    for field, value in found:
        data.setdefault(field, []).append(value)
    return data


def confirm(client, response, path=LIST):
    """Press the button that says yes."""
    assert "Are you sure you want to send these tasks again?" in response.content.decode()
    return client.post(path, hidden_fields(response), follow=True)


def test_resend(login, broker, people):
    """With the permission to change tasks; each is noted in the admin's log, and each that isn't
    sent is named with the reason."""
    add(1, Status.FAILED, stored_message=stored())
    add(2, Status.SKIPPED, stored_message=stored(args=[2]))
    add(3, Status.FAILED)
    add(4, Status.FAILED, stored_message=stored(actor_name="<b>"))
    client = login("view", "change")
    response = act(client, "resend", 1, 2, 3, 4, 5)

    queue = broker.queues["q"]
    sent = [dramatiq.Message.decode(queue.get_nowait()) for _ in range(2)]
    assert [message.args for message in sent] == [(1, "Grüße"), (2,)]
    success, *failures = words(response)
    names = [f"act ({message.message_id[:8]})" for message in sent]
    assert success == f"2 tasks were sent again: {', '.join(names)}."
    assert failures == [
        f"1 task was not sent again: {make_id(5)}. It no longer exists, or you may not view it.",
        f"1 task was not sent again: {name(3)}. "
        "Its message was not stored. Set TASKSTATE['KEEP_MESSAGE'] to store those of future tasks.",
        f"1 task was not sent again: {name(4)}. This process doesn't know the actor <b>. "
        "Import the module that declares it.",
    ]
    entries = {entry.object_id: entry.change_message for entry in LogEntry.objects.all()}
    assert entries == {
        make_id(number): f"Sent again as message {message.message_id}."
        for number, message in enumerate(sent, start=1)
    }
    for message in sent:
        link = f"{LIST}{message.message_id}/change/"
        assert f'<a href="{link}">' in messages_of(response)[0]
        assert client.get(link).status_code == 200


def test_a_new_task_without_a_page_is_named_without_a_link(admin, broker):
    """It may not be written yet, or not be tracked by this process."""
    broker.middleware.clear()
    add(1, Status.FAILED, stored_message=stored())
    response = act(admin, "resend", 1)

    assert words(response) == ["1 task was sent again: act (new)."]
    assert "<a" not in messages_of(response)[0]


def test_no_message_names_all_tasks_of_a_page(admin, broker):
    """It names twenty, and counts the others."""
    for number in range(1, 24):
        add(number, Status.FAILED, description="<i>" if number == 1 else "x" * 200)
    (message,) = words(act(admin, "resend", *range(1, 24)))

    assert message.startswith(f"23 tasks were not sent again: <i> ({make_id(1)[:8]}), xxx")
    assert " and 3 more. Its message was not stored" in message
    assert len(message) < 20 * 80


@pytest.mark.parametrize("status", [status for status in Status if status not in UNSUCCESSFUL])
def test_an_active_or_finished_task_is_asked_about(status, admin, broker):
    """It would run twice at once, or do its work again; the page lists all that were selected."""
    add(1, status, stored_message=stored(), description="<b>report</b>")
    add(2, Status.FAILED, stored_message=stored(args=[2]))
    response = act(admin, "resend", 1, 2)
    html = response.content.decode()

    assert "&lt;b&gt;report&lt;/b&gt;" in html
    for each in (status, Status.FAILED):
        assert f'taskstate-{each.value}">{each.label}</span>' in html
    breadcrumbs = '<ol class="breadcrumbs">'
    assert (breadcrumbs in html) == (breadcrumbs in look(admin).content.decode())
    assert ("Each task would run twice" in html) == (status != "done")
    assert ("Each task would do its work a second time" in html) == (status == "done")
    assert broker.queues["q"].qsize() == 0
    assert words(confirm(admin, response))[0].startswith("2 tasks were sent again")
    assert broker.queues["q"].qsize() == 2


@pytest.mark.parametrize(
    ("before", "after", "is_asked"),
    [
        (Status.FAILED, Status.RUNNING, True),
        (Status.DONE, Status.ENQUEUED, True),
        (Status.RUNNING, Status.DONE, True),
        (Status.ENQUEUED, Status.RUNNING, False),
        (Status.RUNNING, Status.FAILED, False),
    ],
)
def test_the_answer_counts_for_what_was_asked(before, after, is_asked, admin, broker):
    """A task that has changed since is asked about again, whatever the list is filtered by."""
    add(1, before, stored_message=stored())
    add(2, Status.DONE, stored_message=stored())
    path = f"{LIST}?status__exact={before.value}"
    data = {"action": "resend", "_selected_action": [make_id(1), make_id(2)]}
    response = admin.post(path, data)
    Task.objects.filter(pk=make_id(1)).update(status=after)
    response = confirm(admin, response, path)

    assert broker.queues["q"].qsize() == (0 if is_asked else 2)
    if is_asked:
        confirm(admin, response, path)
        assert broker.queues["q"].qsize() == 2


def test_a_task_that_runs_again_since_it_was_selected_is_asked_about(admin, broker):
    """The list showed it as failed, and its filter doesn't find it any more."""
    add(1, Status.RUNNING, stored_message=stored())
    data = {"action": "resend", "index": "0", "_selected_action": make_id(1)}
    response = admin.post(f"{LIST}?status__exact=failed", data)

    assert "Each task would run twice" in response.content.decode()


def test_the_page_that_asks_is_safe_from_other_sites(people, broker):
    """Its form carries Django's token, without which nothing is sent."""
    client = Client(enforce_csrf_checks=True)
    client.force_login(people.create_superuser("admin"))
    add(1, Status.DONE, stored_message=stored())
    token = hidden_fields(client.get(LIST))["csrfmiddlewaretoken"]
    response = act(client, "resend", 1, csrfmiddlewaretoken=token)
    data = hidden_fields(response)

    token = data.pop("csrfmiddlewaretoken")
    assert client.post(LIST, data).status_code == 403
    assert broker.queues["q"].qsize() == 0
    client.post(LIST, {**data, "csrfmiddlewaretoken": token})
    assert broker.queues["q"].qsize() == 1


def test_a_selected_task_that_is_no_id(admin, people):
    """It is a bad request, and nothing happens to the others."""
    add(1)
    for action in ("resend", "delete_selected"):
        for key in ("", "x", "\0", "1" * 31, "1" * 5000, b"\xed\xa0\x80"):
            data = {"action": action, "_selected_action": [make_id(1), key], "post": "yes"}
            assert admin.post(LIST, data).status_code == 400

    assert Task.objects.count() == 1


def test_resend_while_the_broker_is_away(admin, broker_away):
    """It isn't tried once for each task, as long as that takes."""
    for number in (1, 2, 3):
        add(number, Status.FAILED, stored_message=stored())
    response = act(admin, "resend", 1, 2, 3)

    names = ", ".join(name(number) for number in (1, 2, 3))
    text = (
        f"3 tasks were not sent again: {names}. The broker did not accept the message (OSError). "
        "Try again when the broker is available."
    )
    assert words(response) == [text]
    assert LogEntry.objects.count() == 0


@pytest.mark.parametrize("fails", ["log_change", "get_queryset"])
def test_resend_while_the_database_is_away(admin, broker, monkeypatch, fails):
    """If messages were sent, the page says so, so that the user does not send them again."""

    def fail(*args, **kwargs):
        raise OperationalError("the database is away")

    def note_and_fail(*args, **kwargs):
        monkeypatch.setattr(TaskAdmin, fails, fail)
        return enqueue(*args, **kwargs)

    enqueue = broker.enqueue
    monkeypatch.setattr(broker, "enqueue", note_and_fail)
    for number in (1, 2):
        add(number, Status.FAILED, stored_message=stored())
    data = {"action": "resend", "_selected_action": [make_id(1), make_id(2)]}
    response = admin.post(LIST, data)

    assert response.status_code == 302
    assert broker.queues["q"].qsize() == 2
    monkeypatch.undo()
    assert [text[:27] for text in words(admin.get(LIST))] == ["2 tasks were sent again: ac"]


@pytest.mark.skipif(not hasattr(options, "ActionLocation"), reason="Django 6.1 and later")
def test_resend_from_a_tasks_page(login, broker, people, monkeypatch):
    """Where Django lets an action stand there; after the transaction that it opens for the page."""
    in_transaction = []

    def enqueue(message, *, delay=None):
        in_transaction.append(connections["default"].in_atomic_block)
        return enqueue_really(message, delay=delay)

    enqueue_really = broker.enqueue
    monkeypatch.setattr(broker, "enqueue", enqueue)
    add(1, stored_message=stored())
    client = login("view", "change")
    assert "resend" in page(client, 1)
    path = f"{LIST}{make_id(1)}/change/"
    data = {"CHANGE_FORM-action": "resend", "_selected_action": make_id(1)}
    response = client.post(path, data, follow=True)
    assert in_transaction == []
    response = confirm(client, response, path)

    assert response.redirect_chain == [(path, 302)]
    assert words(response) == ["1 task was sent again: act (new)."]
    assert in_transaction == [False]
    assert broker.queues["q"].qsize() == 1
    people.all().delete()
    assert "resend" not in page(login("view"), 1)


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

    assert {
        "admin.css",
        "change_list.html",
        "resend_confirmation.html",
        "timeline.html",
        "input_filter.html",
    } <= found
