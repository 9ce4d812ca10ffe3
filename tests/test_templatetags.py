"""``{% load taskstate %}``: a live task on any page."""

import datetime

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ImproperlyConfigured
from django.template import engines
from django.test import RequestFactory

from taskstate.models import Status, Task
from tests import website
from tests.factories import START, make_id, make_transition
from tests.html import Page
from tests.test_models import write

START_TIME = datetime.datetime.fromtimestamp(START / 1000, datetime.timezone.utc)
EVIL = """"><script>alert('1')</script><b onclick="x">'&amp;"""


@pytest.fixture(autouse=True)
def site(settings):
    website.use(settings)


def render(text, user=None, **context):
    request = RequestFactory().get("/")
    request.user = AnonymousUser() if user is None else user
    template = engines["django"].from_string("{% load taskstate %}" + text)
    return template.render(context, request)


def make_task(status=Status.RUNNING, **values):
    """A task that is in no database."""
    fields = {
        "message_id": make_id(1),
        "actor_name": "export",
        "enqueued_at": START_TIME,
        "updated_at": START_TIME,
    }
    return Task(status=status, **{**fields, **values})


def read(text):
    """The one task on a page: its attributes, its bar, and its texts."""
    page = Page(text)
    ((element, _),) = page.find("task-progress")
    ((bar, _),) = page.find("progress")
    fields = {a["data-field"]: t for a, t in page.find("span") if "data-field" in a}
    return element, bar, fields


def test_a_task_is_shown_as_it_is():
    """Without a script as well; for one, with all that it needs."""
    task = make_task(description="Export 7", progress=41.5, progress_text="83 of 200")
    element, bar, fields = read(render("{% task_progress task %}", task=task))

    assert element["data-task"] == make_id(1)
    assert element["data-status"] == "running"
    assert element["data-url"] == "/tasks/json/"
    assert element["data-text-lost"] == "Connection lost, trying again."
    assert "data-events-url" not in element
    assert (bar["value"], bar["max"]) == ("41.50", "100")
    assert (bar["aria-label"], bar["aria-valuetext"]) == ("Export 7", "41 %")
    assert fields == {
        "title": "Export 7",
        "status_label": "Running",
        "percent": "41 %",
        "note": "83 of 200",
    }


@pytest.mark.parametrize(
    ("status", "values", "note", "bar"),
    [
        ("enqueued", {}, "", {}),
        ("enqueued", {"attempt": 1, "error": "E: x"}, "Attempt 2 · E: x", {}),
        ("running", {"attempt": 2}, "Attempt 3", {}),
        ("running", {"progress": 0.0}, "", {"value": "0.00"}),
        ("done", {"progress": 99.0, "attempt": 1}, "", {"value": "100"}),
        ("failed", {"error": "E: x", "attempt": 1}, "E: x", {"hidden": None}),
        ("failed", {"error": "lost"}, "Nothing was heard of it for too long", {"hidden": None}),
        ("skipped", {}, "", {"hidden": None}),
    ],
)
def test_each_status(status, values, note, bar):
    """What it says, and its bar: indeterminate, at a value, or none."""
    _, found, fields = read(render("{% task_progress task %}", task=make_task(status, **values)))

    assert fields["note"] == note
    assert {name: found[name] for name in ("value", "hidden") if name in found} == bar


def test_a_delayed_task_says_when_it_is_due(settings):
    """In the time zone of the site, with the date unless it is today."""
    task = make_task("delayed", next_attempt_at=START_TIME)
    _, _, fields = read(render("{% task_progress task %}", task=task))

    assert fields["note"] == "Starts at 11/15/2023 3:43 a.m."


@pytest.mark.parametrize("field", ["description", "actor_name", "progress_text", "error"])
@pytest.mark.parametrize("status", list(Status))
@pytest.mark.parametrize("source", ["{}", "{{% autoescape off %}}{}{{% endautoescape %}}"])
def test_texts_are_no_html(field, status, source):
    """Whatever somebody has called their report, and wherever the tag stands."""
    text = render(
        source.format("{% task_progress task %}"), task=make_task(status, **{field: EVIL})
    )
    page = Page(text)

    assert page.offences() == []
    assert page.find("script") == page.find("b") == []
    element, bar, fields = read(text)
    assert element["data-status"] == status
    if field == "description":
        assert fields["title"] == bar["aria-label"] == EVIL


def test_a_title_is_no_html(sqlite):
    """Nor is what the page calls a message."""
    page = Page(render("{% task_progress key title=evil %}", key=make_id(1), evil=EVIL))

    assert page.find("script") == []
    assert page.find("span", data_field="title")[0][1] == EVIL


def test_a_message_without_a_row(database):
    """It is shown as enqueued, and asked for from then on."""

    class Message:
        message_id = make_id(5)

    for value in (Message(), make_id(5)):
        text = render("{% task_progress value title='Export' %}", value=value)
        element, bar, fields = read(text)
        assert (element["data-task"], element["data-status"]) == (make_id(5), "enqueued")
        assert fields["title"] == "Export"
        assert fields["status_label"] == "Enqueued"
        assert "value" not in bar


def test_an_id_shows_its_row_to_its_user_only(database):
    """Anybody may write an id into an address."""
    write(make_transition(Status.DONE, description="Export 7", user_pk=7))
    user_model = get_user_model()

    def status(user):
        return read(render("{% task_progress key %}", user, key=make_id(1)))[0]["data-status"]

    assert status(user_model(pk=7)) == "done"
    assert status(user_model(pk=8)) == "enqueued"
    assert status(None) == "enqueued"


@pytest.mark.parametrize("value", ["7", "", None, 7, EVIL])
def test_what_is_no_task_is_refused(value):
    """With its value and the cure, where the template is written."""
    with pytest.raises(ValueError, match="is no message, task, or id of one"):
        render("{% task_progress value %}", value=value)


def test_missing_urls_are_named(settings):
    """With the line that is missing."""
    settings.ROOT_URLCONF = "tests.test_templatetags"
    with pytest.raises(ImproperlyConfigured, match=r"include\('taskstate.urls'\)"):
        render("{% task_progress task %}", task=make_task())


def test_the_assets_come_from_the_site():
    """As files of its own, so that a strict Content-Security-Policy lets them in."""
    page = Page(render("{% taskstate_assets %}"))

    assert page.offences() == []
    assert page.find("script") == [({"src": "/static/taskstate/tasks.js", "defer": None}, "")]
    assert page.find("link")[0][0]["href"] == "/static/taskstate/tasks.css"


#: For ``test_missing_urls_are_named``.
urlpatterns = []
