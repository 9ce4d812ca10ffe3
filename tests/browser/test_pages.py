"""Tasks in a real browser: with no reload, for their own user alone, through lost connections."""

import json
import re

import django
import pytest

from taskstate.models import Task
from tests.support.workers import wait_until

#: Longer than any test.
RETRY_MS = 3_600_000


def test_a_task_goes_from_enqueued_over_progress_to_done(page, site, send):
    """On the page, with no reload, in each way to serve it; the task is new to the page."""
    page.visit(site, "alice")
    page.see()

    export = send("alice", "Export")
    page.see({"id": export.id, "title": "Export", "status": "Running", "value": None})
    export.order("progress", 1, 4, "Reading")
    page.see({"status": "Running", "percent": "25 %", "value": 25, "note": "Reading"})
    export.order("progress", 3, 4, "Writing")
    page.see({"status": "Running", "percent": "75 %", "value": 75, "note": "Writing"})
    export.order("end")
    page.see({"status": "Done", "value": 100})

    assert page.is_the_same()


def test_a_task_that_waits_is_shown_as_enqueued(page, wsgi, send):
    """And as running as soon as a worker takes it."""
    busy = [send("bob", f"Busy {number}") for number in range(4)]
    wait_until(lambda: Task.objects.filter(status="running").count() == 4)
    page.visit(wsgi, "alice")

    export = send("alice", "Export")
    page.see({"title": "Export", "status": "Enqueued"})
    busy[0].order("end")
    page.see({"title": "Export", "status": "Running"})
    export.order("end")
    page.see({"title": "Export", "status": "Done"})

    assert page.is_the_same()


def test_a_task_goes_to_failed_with_its_reason(page, site, send):
    page.visit(site, "alice")

    export = send("alice", "Export")
    page.see({"status": "Running"})
    export.order("fail", "The disk is full.")
    page.see({"status": "Failed", "note": "The disk is full.", "bar": False})

    assert page.is_the_same()


def test_a_task_that_is_tried_again_shows_why_and_when(page, wsgi, send):
    page.visit(wsgi, "alice")

    export = send("alice", "Export", min_backoff=RETRY_MS, max_backoff=RETRY_MS)
    page.see({"status": "Running"})
    export.order("stumble", "Nobody answers.")
    page.see({"status": "Delayed"})

    (task,) = page.tasks()
    assert re.fullmatch(r"Attempt 2 at .*\d.* Nobody answers\.", task["note"])
    assert page.is_the_same()


def test_another_user_sees_nothing_of_it(page, others_page, site, send, users):
    """Not on the page, and not by asking for its id; a user who may view tasks does."""
    page.visit(site, "alice")
    others_page.visit(site, "bob")
    hers = send("alice", "Hers")
    page.see({"title": "Hers", "status": "Running"})
    his = send("bob", "His")
    # Once he sees his own, which is newer, he would have seen hers.
    others_page.see({"title": "His", "status": "Running"})
    hers.order("progress", 50)
    page.see({"title": "Hers", "percent": "50 %"})
    hers.order("fail", "Nobody's business")
    his.order("end")
    others_page.see({"title": "His", "status": "Done"})

    assert ask(others_page, f"/tasks/json/?id={hers.id}&id={his.id}") == ["His"]
    assert ask(others_page, "/tasks/json/") == ["His"]
    others_page.visit(site, "admin", "/")
    assert ask(others_page, f"/tasks/json/?id={hers.id}&id={his.id}") == ["His", "Hers"]


def ask(page, path):
    """Return the titles of the tasks in the answer to a question from the page."""
    script = "fetch(arguments[0]).then(answer => answer.text()).then(arguments[1])"
    found = json.loads(page.driver.execute_async_script(script, path))
    return [task["title"] for task in found["tasks"]]


def test_a_lost_connection_is_survived(page, site, send, cut_connections):
    """The page shows that, and is up to date as soon as the site is back."""
    page.visit(site, "alice")
    export = send("alice", "Export")
    page.see({"status": "Running"})

    site.stop()
    try:
        page.wait_until(page.problem, lambda: "the page does not show it")
        assert page.problem() == "Connection lost, trying again."
        export.order("progress", 50)
        wait_until(lambda: Task.objects.filter(progress=50).exists())
    finally:
        site.start()
    page.see({"status": "Running", "percent": "50 %"})
    assert page.problem() == ""
    export.order("end")
    page.see({"status": "Done"})

    assert page.is_the_same()
    cut_connections(page)


@pytest.mark.parametrize(("kind", "streams"), [("asgi", True), ("wsgi", False)])
def test_events_come_where_the_site_can_send_them(page, request, send, kind, streams):
    """By a request that stays open; elsewhere the page asks again and again, as it does with a
    Django that can't."""
    site = request.getfixturevalue(kind)
    export = send("alice", "Export")
    page.visit(site, "alice")
    page.see({"status": "Running", "percent": ""})
    export.order("progress", 50)
    page.see({"percent": "50 %"})
    export.order("end")
    page.see({"status": "Done"})

    streams = streams and django.VERSION >= (4, 2)
    assert ("GET /tasks/events/" in site.log()) is streams
    # What came by event was not asked for.
    asked = [url for url in page.requests("/tasks/json/") if export.id in url]
    assert len(asked) == 1 if streams else len(asked) > 1


def test_without_javascript_the_page_shows_how_tasks_are(page, wsgi, send):
    export = send("alice", "Export")
    export.order("progress", 50, 100, "Reading")
    wait_until(lambda: Task.objects.filter(progress=50).exists())

    with page.without_javascript():
        page.driver.get(f"{wsgi.url}/as/alice/?next=/tasks/")
    page.see({"status": "Running", "percent": "50 %", "value": 50, "note": "Reading"})
    export.order("end")
    wait_until(lambda: Task.objects.filter(status="done").exists())
    with page.without_javascript():
        page.driver.refresh()
    page.see({"status": "Done", "value": 100})


def test_a_button_sends_a_message_and_the_page_shows_what_becomes_of_it(page, site, worker):
    """The element on a page of the site's own, which may be there before the row is."""
    page.visit(site, "alice", "/")
    page.click("button[value=charge]")
    page.see(
        {
            "title": "Charge a card that is declined",
            "status": "Failed",
            "note": "The card was declined.",
        }
    )


@pytest.mark.parametrize("path", ["/admin/taskstate/task/", "/admin/taskstate/task/{id}/change/"])
def test_the_admin_keeps_to_the_policy(page, wsgi, send, path):
    """As all pages of these tests do: none of its styles and scripts stands in the page."""
    export = send("alice", "Export")
    export.order("progress", 50)
    export.order("fail", "The disk is full.")
    wait_until(lambda: Task.objects.filter(status="failed").exists())

    page.visit(wsgi, "admin", path.format(id=export.id))
    assert "The disk is full." in page.driver.page_source
