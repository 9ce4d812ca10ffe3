"""``{% load taskstate %}``: a live task on any page."""

import datetime
import struct

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.template import engines
from django.test import RequestFactory
from django.utils import translation
from django.utils.functional import SimpleLazyObject

from taskstate.models import Status, Task
from tests.support import website
from tests.support.factories import START, make_id, make_transition
from tests.support.html import Page
from tests.support.rows import write

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
    texts = page.find("span") + page.find("bdi")
    fields = {a["data-field"]: t for a, t in texts if "data-field" in a}
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
        ("enqueued", {"attempt": 2, "error": "E", "user_error": "x"}, "Attempt 2 · x", {}),
        ("running", {"attempt": 3}, "Attempt 3", {}),
        ("running", {"progress": 0.0}, "", {"value": "0.00"}),
        ("done", {"progress": 99.0, "attempt": 2}, "", {"value": "100"}),
        ("failed", {"error": "E", "user_error": "x", "attempt": 2}, "x", {"hidden": None}),
        ("failed", {"error": "lost"}, "No update for too long", {"hidden": None}),
        ("skipped", {}, "", {"hidden": None}),
    ],
)
def test_each_status(status, values, note, bar):
    """Its text, and its bar: indeterminate, at a value, or none."""
    _, found, fields = read(render("{% task_progress task %}", task=make_task(status, **values)))

    assert fields["note"] == note
    assert {name: found[name] for name in ("value", "hidden") if name in found} == bar


def test_a_delayed_task_says_when_it_is_due(settings):
    """In the time zone of the site, with the date unless it is today."""
    task = make_task("delayed", next_attempt_at=START_TIME)
    _, _, fields = read(render("{% task_progress task %}", task=task))

    assert fields["note"] == "Starts at 11/15/2023 3:43 a.m."


@pytest.mark.parametrize("field", ["description", "actor_name", "progress_text", "user_error"])
@pytest.mark.parametrize("status", list(Status))
@pytest.mark.parametrize("source", ["{}", "{{% autoescape off %}}{}{{% endautoescape %}}"])
def test_texts_are_escaped(field, status, source):
    """Whatever a user has called their report, and wherever the tag stands."""
    text = render(
        source.format("{% task_progress task %}"),
        task=make_task(status, error="E", **{field: EVIL}),
    )
    page = Page(text)

    assert page.offences() == []
    assert page.find("script") == page.find("b") == []
    element, bar, fields = read(text)
    assert element["data-status"] == status
    if field == "description":
        assert fields["title"] == bar["aria-label"] == EVIL


def test_a_title_is_escaped(sqlite):
    """Nor is what the page calls a message."""
    page = Page(render("{% task_progress key title=evil %}", key=make_id(1), evil=EVIL))

    assert page.find("script") == []
    assert page.find("bdi", data_field="title")[0][1] == EVIL


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
    """Any user may write an id into an address."""
    write(make_transition(Status.DONE, description="Export 7", user_pk=7))
    user_model = get_user_model()

    def status(user):
        return read(render("{% task_progress key %}", user, key=make_id(1)))[0]["data-status"]

    assert status(user_model(pk=7)) == "done"
    assert status(user_model(pk=8)) == "enqueued"
    assert status(None) == "enqueued"


@pytest.mark.parametrize("value", ["7", "", None, 7, EVIL])
def test_the_tag_rejects_what_is_not_a_task(value):
    """The error states the value and what to do, at its place in the template."""
    with pytest.raises(ValueError, match="is not a message, a task, or the id of one"):
        render("{% task_progress value %}", value=value)


def test_missing_urls_are_named(settings):
    """With the line that is missing."""
    settings.ROOT_URLCONF = "tests.templatetags.test_taskstate"
    with pytest.raises(ImproperlyConfigured, match=r"include\('taskstate.urls'\)"):
        render("{% task_progress task %}", task=make_task())


def test_the_assets_come_from_the_site():
    """As files of its own, so that a strict Content-Security-Policy allows them."""
    page = Page(render("{% taskstate_assets %}"))

    assert page.offences() == []
    assert page.find("script") == [({"src": "/static/taskstate/tasks.js", "defer": None}, "")]
    assert page.find("link")[0][0]["href"] == "/static/taskstate/tasks.css"


def test_an_element_has_the_mark_of_its_user(settings):
    """By which the script notices that an answer is for another one."""
    user_model = get_user_model()

    def mark(user=None):
        element, _, _ = read(render("{% task_progress task %}", user, task=make_task()))
        return element["data-viewer"]

    marks = {mark(user_model(pk=pk)) for pk in (7, 8, 7)}
    assert len(marks) == 2
    assert {len(mark) for mark in marks} == {16}
    assert mark() == ""
    settings.SECRET_KEY = "of another site"
    assert mark(user_model(pk=7)) not in marks


def test_in_an_async_view_no_user_is_loaded():
    """A task that is there already is shown nevertheless, for whichever user."""

    def load():
        raise SynchronousOnlyOperation

    async def view():
        return render("{% task_progress task %}", SimpleLazyObject(load), task=task)

    task = make_task("failed", error="ValueError: seven", user_error="The file is empty.")
    element, _, fields = read(async_to_sync(view)())
    assert element["data-viewer"] == ""
    assert fields["note"] == "The file is empty."


@pytest.mark.parametrize(
    ("language", "expected"), [("en-gb", None), ("de", "en"), ("he", "en"), (None, None)]
)
def test_texts_that_are_not_translated_are_marked_as_english(language, expected):
    """So that they are read aloud as what they are."""
    with translation.override(language):
        page = Page(render("{% task_progress task %}", task=make_task()))

    ((status, text),) = page.find("span", data_field="status_label")
    assert text == "Running"
    assert status.get("lang") == expected
    # The language of a title is not known.
    assert "lang" not in page.find("bdi", data_field="title")[0][0]


def test_texts_that_the_site_has_translated_are_not_marked(tmp_path, settings):
    settings.LOCALE_PATHS = [str(translate_into_german(tmp_path))]
    translation.trans_real._translations.clear()
    try:
        with translation.override("de"):
            page = Page(render("{% task_progress task %}", task=make_task()))
    finally:
        translation.trans_real._translations.clear()

    assert "lang" not in page.find("span", data_field="status_label")[0][0]


def translate_into_german(folder):
    """Write a catalog with one text, as msgfmt does; return the directory of catalogs."""
    texts = [
        (b"", b"Content-Type: text/plain; charset=UTF-8\n"),
        (b"Your tasks", b"Ihre Aufgaben"),
    ]
    start = 28 + len(texts) * 16
    tables, content = ([], []), b""
    for number in (0, 1):
        for pair in texts:
            tables[number].append(struct.pack("<II", len(pair[number]), start + len(content)))
            content += pair[number] + b"\0"
    header = struct.pack("<7I", 0x950412DE, 0, len(texts), 28, 28 + len(texts) * 8, 0, 0)
    catalog = folder / "de" / "LC_MESSAGES" / "django.mo"
    catalog.parent.mkdir(parents=True)
    catalog.write_bytes(header + b"".join(tables[0] + tables[1]) + content)
    return folder


#: For ``test_missing_urls_are_named``.
urlpatterns = []
