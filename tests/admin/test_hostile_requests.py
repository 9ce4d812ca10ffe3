"""Addresses and texts from anywhere: whatever they hold, the admin answers without an error."""

from html import unescape
from urllib.parse import quote, urlencode

import hypothesis
import pytest
from django.contrib import admin as django_admin
from django.db import connections, models
from hypothesis import strategies as st

from taskstate.models import Status, Task
from tests.support.admin import LIST, act, add, ids, page
from tests.support.factories import make_id

FULL_WIDTH = "\uff12\uff10\uff12\uff16"
TEXTS = [
    *(
        "",
        " ",
        "\0",
        "x\0y",
        "\ud800",
        "\ufffe",
        "\u202e",
        "😀",
        "%s",
        "%00",
        "%(x)s {0}",
        "'",
        '"',
    ),
    *("\\", "' OR 1=1 --", "<script>", "(a+)+$", "[]", "None", "NaN", "-1", "0", "13", "32", "1e3"),
    *("9999", "10000", "2026", FULL_WIDTH, "²", "9" * 30, "9" * 5000, "x" * 5000, "," * 2000),
    *("2026-13-45", "9999-12-31T23:59:59-12:00", "done", make_id(1), "../..", "\r\nX: y"),
]
#: Those that a database takes.
STORED_TEXTS = [text for text in TEXTS if "\0" not in text and "\ud800" not in text]
#: Those whose values a database compares.
COMPARED = [
    *("status__exact", "actor", "queue", "user", "q"),
    *("enqueued_at__gte", "enqueued_at__lt", "day"),
]
#: Those whose values no database gets.
NOT_COMPARED = ["p", "o", "all", "e", "_popup", "_to_field", "_facets", "_changelist_filters"]
PARAMETERS = [*COMPARED, *NOT_COMPARED]
#: What the list doesn't offer.
LOOKUPS = [
    *("enqueued_at__year", "enqueued_at__date", "enqueued_at__isnull", "description__regex"),
    *(
        "result__a__b",
        "metadata__has_key",
        "message_id",
        "user__exact",
        "user__password__startswith",
    ),
    *("status", "status__in", "status__regex", "attempt__gt", "nothing", "", "__", "pk"),
]
DATES = [
    *("day=9999-12-31", "day=10000-01-01", "day=0000-01-01", "day=0001-01-01", "day=2026-13-01"),
    *("day=2026-02-30", f"day={FULL_WIDTH}-01-01x", "day=2026", "day=-1", "day=1772668800"),
    *("enqueued_at__gte=9999-12-31T23:59:59-12:00", "enqueued_at__lt=0001-01-01T00:00:00%2B12:00"),
    *("enqueued_at__gte=2026-02-30T00:00:00Z", "enqueued_at__lt=2026-03-05", "enqueued_at__gte="),
    *("enqueued_at__gte=now", "enqueued_at__gte=2026-03-05T00:00:00Z&enqueued_at__gte=x"),
    "enqueued_at__lt=2026-03-05T00:00:00",  # Without its zone, on a site with time zones.
]


def answer(client, parameters):
    """The status of the list's answer; each text as the bytes that a browser could send."""
    query = urlencode(parameters, doseq=True, errors="surrogatepass")
    return client.get(f"{LIST}?{query}").status_code


def check_texts(client, name):
    add(1, Status.FAILED, description="Grüße")
    for text in TEXTS:
        assert answer(client, {name: text}) in {200, 302, 400}, text


@pytest.mark.parametrize("name", COMPARED)
def test_no_parameter_of_the_list_is_an_error_of_the_server(name, admin, broker):
    """Whatever it holds."""
    check_texts(admin, name)


@pytest.mark.parametrize("database", ["default"], indirect=True)
@pytest.mark.parametrize("name", NOT_COMPARED)
def test_no_other_parameter_is_an_error_of_the_server(name, admin, broker):
    """Here one database stands for all of them."""
    check_texts(admin, name)


@hypothesis.settings(
    max_examples=50, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(
    st.dictionaries(
        st.sampled_from(PARAMETERS),
        st.lists(st.sampled_from(TEXTS) | st.text(), max_size=2),
        max_size=4,
    )
)
def test_no_parameters_together_are_an_error_of_the_server(admin, parameters):
    """Whatever they hold, each once or twice."""
    assert answer(admin, parameters) in {200, 302, 400}


def test_no_lookup_but_those_of_the_list(admin):
    """Others may be expensive, or fail in the database, by what they hold."""
    add(1)
    for name in LOOKUPS:
        assert answer(admin, {name: "("}) == 400, name


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12"])
def test_a_date_beyond_the_calendar(zone, admin, settings):
    """The list is shown without it, as Django does with parameters that it can't read."""
    settings.TIME_ZONE = zone
    add(1)

    for query in DATES:
        assert admin.get(f"{LIST}?{query}").status_code == 302, query
    for year in (1900, 9000):
        assert ids(admin, f"?day={year}-01-01") == []
        assert ids(admin, f"?enqueued_at__gte=9000-12-31T23:59:59-12:00&day={year}-12-31") == []


@pytest.mark.parametrize("part", ["change", "delete", "history"])
def test_no_address_of_a_task_is_an_error_of_the_server(part, admin):
    """Whatever stands in the place of its id, or behind the question mark."""
    add(1)
    for text in TEXTS:
        key = quote(text, safe="", errors="surrogatepass")
        query = "&".join(f"{name}={key}" for name in ("_changelist_filters", "_popup"))
        for path in (f"{key}/{part}/", f"{make_id(1)}/{part}/?{query}"):
            assert admin.get(LIST + path).status_code in {200, 301, 302, 400, 404}, path


def test_any_text_of_a_task_can_be_shown(admin, broker):
    """In the list, on its page, and on the page that asks whether to send it again."""
    lengths = {
        field.name: field.max_length
        for field in Task._meta.concrete_fields
        if isinstance(field, (models.CharField, models.TextField)) and field.name != "status"
    }
    numbers = range(1, len(STORED_TEXTS) + 1)
    for number, text in zip(numbers, STORED_TEXTS):
        values = {field: text[:length] for field, length in lengths.items()}
        add(number, **values, progress=50, result={text: text}, metadata=[text])

    assert len(ids(admin)) == len(STORED_TEXTS)
    for number in numbers:
        page(admin, number)
    assert act(admin, "resend", *numbers).status_code == 200


def test_json_that_no_page_can_hold(admin):
    """Half of a surrogate pair is shown as JSON writes it."""
    add(1, stored_message=r'["\ud800", "\udfff\u0000\ud83d\ude00"]')
    html = unescape(page(admin, 1))

    assert r'"\ud800"' in html
    assert r'"\udfff\u0000😀"' in html


@pytest.mark.parametrize("text", ["[" * 900 + "]" * 900, "9" * 5000, "[1e999]", '{"a":1,"a":2}'])
def test_json_that_is_hard_to_read(text, admin):
    """It is shown, in whatever form."""
    add(1, stored_message=text)

    assert "Stored message" in page(admin, 1)


def test_a_deeply_nested_message_does_not_fill_the_page(admin):
    """Each line of it would be indented by its depth."""
    add(1, stored_message="[" * 200 + "1," * 20_000 + "1" + "]" * 200)

    assert len(page(admin, 1)) < 100_000


def test_a_word_to_search_for_that_no_database_takes(admin, database):
    """Django's own form rejects it in the list, and not in the autocomplete field."""
    add(1)
    found, _ = django_admin.site._registry[Task].get_search_results(
        None, Task.objects.all(), "a\0ct"
    )

    assert [task.message_id.int for task in found] == [1]


@pytest.mark.parametrize("name", ["q", "actor", "status__exact"])
def test_a_connection_with_three_bytes_for_a_character(admin, database, name):
    """Django's default with MariaDB before 5.2. It then rejects comparisons with an emoji."""
    connection = connections[database]
    add(1)
    if connection.vendor == "mysql":
        with connection.cursor() as cursor:
            cursor.execute("SET NAMES utf8mb3")
    try:
        response = admin.get(LIST, {name: "\U0001f600"})
    finally:
        connection.close()

    assert response.status_code == (302 if connection.vendor == "mysql" else 200)
