"""Values from anywhere, made safe for the columns."""

import enum
import json
import uuid

import pytest
from django.db import models
from hypothesis import given
from hypothesis import strategies as st

from taskstate.transitions import sanitize
from taskstate.utils.clock import MAX_TIME
from tests.support.factories import make_transition

anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters()),
    st.binary(),
    st.lists(st.text()),
    st.dictionaries(st.text(), st.integers()),
)


@given(anything, st.integers(1, 20))
def test_text_is_what_every_database_takes(value, length):
    """Short enough, encodable, without NUL: whatever came in."""
    text = sanitize.clean_text(value, length)

    assert len(text) <= length
    assert "\0" not in text
    text.encode()


@given(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=9))
def test_text_that_fits_is_kept(value):
    """Nothing is changed that needs no change."""
    assert sanitize.clean_text(value, 9) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("abcdef", "abcd…"),
        ("abcde", "abcde"),
        ("a\0b", "ab"),
        ("a\0bcde", "abcde"),
        ("a\ud800b", "ab"),
        ("\ud83d\ude00", ""),
        ("😀😀😀😀😀😀", "😀😀😀😀…"),
        (None, ""),
        (12, "12"),
        ("", ""),
    ],
)
def test_text(value, expected):
    """An ellipsis shows that something is missing; what no database takes is removed."""
    assert sanitize.clean_text(value, 5) == expected


@given(st.uuids())
def test_message_ids_in_any_form_become_canonical(value):
    """The same UUID is the same task, however it is spelled."""
    for text in (str(value), value.hex, str(value).upper(), f"{{{value}}}", value.urn):
        assert sanitize.clean_message_id(text) == str(value)
    assert sanitize.clean_message_id(value) == str(value)


@pytest.mark.parametrize("value", ["", "job-1", None, 7, "x" * 36, "0" * 31, "é" * 36])
def test_an_invalid_message_id_raises_value_error(value):
    """No other error is raised."""
    with pytest.raises(ValueError, match=r"UUID|hexadecimal|invalid"):
        sanitize.clean_message_id(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, 3), (-1, 0), (11, 10), (None, 0), ("3", 0), (True, 0), (2.5, 0), ([], 0)],
)
def test_counts(value, expected):
    """A stamp or a number of retries that is not a whole number counts as 0."""
    assert sanitize.clean_count(value, 10) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(5, 5), (5.9, 5), (-5, 0), (2**80, MAX_TIME), (None, 0), ("now", 0)],
)
def test_times(value, expected):
    """A message's timestamp is held within what a rank can hold."""
    assert sanitize.clean_time(value) == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_times_that_are_no_number(value):
    """JSON as Python writes it knows NaN and Infinity."""
    assert sanitize.clean_time(value) == 0


class Number(enum.IntEnum):
    SEVEN = 7


def number_key():
    return sanitize.UserKey(int, smallest=-10, greatest=100, max_length=None, is_integer=True)


def text_key():
    return sanitize.UserKey(to_python=str, smallest=0, greatest=0, max_length=5)


def test_user_pk_is_what_the_key_makes_of_it():
    """Text becomes a number where the key is one; None is no user."""
    assert number_key().clean("7") == 7
    assert number_key().clean(7) == 7
    assert number_key().clean(None) is None
    assert number_key().clean("-7") == -7
    assert number_key().clean("0") == 0
    assert number_key().clean(Number.SEVEN) == 7
    assert text_key().clean("anna") == "anna"
    assert text_key().clean(" 1_1 ") == " 1_1 "


@pytest.mark.parametrize(
    "value", ["", "anna", -11, 101, "101", 2**70, True, 1.5, [1], {"a": 1}, b"1", "1" * 300]
)
def test_user_pk_that_a_number_can_not_take(value):
    """Each raises a ValueError that states why."""
    with pytest.raises(ValueError, match=r".+"):
        number_key().clean(value)


@pytest.mark.parametrize(
    "value",
    [
        " 7",
        "7 ",
        "7\n",
        "1_1",
        " 1_1 ",
        "+7",
        "--7",
        "-",
        "-0",
        "007",
        "7.0",
        "7e0",
        "0x7",
        "١٢",
        "\uff17",
    ],
)
def test_a_number_in_an_unusual_spelling_is_no_user(value):
    """Who is meant isn't certain: a task without a user is better than one of another user."""
    with pytest.raises(ValueError, match="written in plain digits"):
        number_key().clean(value)


def test_a_uuid_is_no_number():
    """Though Python makes one of it."""
    with pytest.raises(ValueError, match="is a whole number here"):
        number_key().clean(uuid.UUID(int=7))


def uuid_key():
    return sanitize.UserKey(models.UUIDField().to_python, 0, 0, None, is_uuid=True)


def test_user_pk_that_is_a_uuid():
    """Itself, or as str() or hex write it, in either case."""
    key = uuid.UUID("0a1b2c3d-0a1b-2c3d-4e5f-0a1b2c3d4e5f")
    for value in (key, str(key), key.hex, str(key).upper(), key.hex.upper()):
        assert uuid_key().clean(value) == key


@pytest.mark.parametrize(
    "value",
    [
        7,
        "7",
        True,
        "anna",
        f"{{{uuid.UUID(int=7)}}}",
        uuid.UUID(int=7).urn,
        f" {uuid.UUID(int=7)}",
        f"{uuid.UUID(int=7)}\n",
        "0" * 31 + "\u0667",
        "0_" * 15 + "07",
        "+" + "0" * 31,
        "0x" + "0" * 30,
        "00-" * 10 + "00",
    ],
)
def test_user_pk_that_a_uuid_can_not_take(value):
    """Python and Django read each of them as the key of a user."""
    with pytest.raises(ValueError, match=r"is a UUID here|can't be a primary key"):
        uuid_key().clean(value)


@pytest.mark.parametrize("value", ["toolong", "a\0b", "\ud800", ["a"], 1.5])
def test_user_pk_that_a_text_can_not_take(value):
    """Each raises a ValueError that states why."""
    with pytest.raises(ValueError, match=r".+"):
        text_key().clean(value)


@pytest.mark.parametrize("is_integer", [True, False])
@pytest.mark.parametrize("value", [0, "0"])
def test_user_pk_of_zero(value, is_integer):
    """A key in most databases, and none where a number that counts by itself begins after it."""
    key = sanitize.UserKey(int, -5, 5, None, is_integer=is_integer)
    assert key.clean(value) == 0
    with pytest.raises(ValueError, match="0 is not a valid key"):
        key._replace(takes_zero=False).clean(value)
    assert [key._replace(takes_zero=False).clean(n) for n in (-1, 1)] == [-1, 1]


def test_user_pk_of_an_unknown_type_raises_value_error():
    """A key of a type that a transition can't hold is no user."""
    with pytest.raises(ValueError, match="can't be tracked"):
        sanitize.UserKey(lambda value: object(), 0, 0, None).clean(1)


def test_a_member_of_an_enumeration_is_its_value():
    """As JSON has it, so that sender and worker agree."""
    App = enum.Enum("App", {"SHOP": "shop"}, type=str)

    assert sanitize.clean_text(App.SHOP, 100) == "shop"
    assert type(sanitize.clean_text(App.SHOP, 100)) is str


@pytest.mark.parametrize("value", [-10, 100])
def test_the_ends_of_the_range_are_valid_keys(value):
    """As a number and as text."""
    assert number_key().clean(value) == value
    assert number_key().clean(str(value)) == value
    with pytest.raises(ValueError, match="it is not between -10 and 100"):
        number_key().clean(str(value + (1 if value > 0 else -1)))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", True),
        ("a", True),
        ("x" * sanitize.TENANT_LENGTH, True),
        ("x" * (sanitize.TENANT_LENGTH + 1), False),
        (" a", False),
        ("a ", False),
        ("a\0", False),
        (None, False),
        (7, False),
    ],
)
def test_names_of_tenants(value, expected):
    """Every database stores them unchanged, and tells them apart."""
    assert sanitize.is_tenant(value) is expected


def test_json_of_exactly_the_length():
    """One more character is too many."""
    assert sanitize.clean_json("abc", 5) == '"abc"'
    with pytest.raises(ValueError, match="it has 5 characters as JSON, and 4 are allowed"):
        sanitize.clean_json("abc", 4)


@pytest.mark.parametrize(
    "value", ["\0", "a\0", "\ud800", "a\udfff", ["\0", "\ud800"], {"\0": 1}, "\\u0000\0"]
)
def test_json_that_postgresql_rejects(value):
    """A NUL character or a lone surrogate, alone or together, also as a key."""
    with pytest.raises(ValueError, match="a NUL character or half of a surrogate pair"):
        sanitize.clean_json(value, 100)


@pytest.mark.parametrize("value", ["\U0001f600", "\\u0000", "\\ud800", "\\", [], {"a": None}])
def test_json_that_looks_like_it(value):
    """A surrogate pair is a character; a backslash is a character, too."""
    assert json.loads(sanitize.clean_json(value, 100)) == value


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), object(), {1, 2}])
def test_json_that_there_is_not(value):
    """The message says which value it is."""
    with pytest.raises(ValueError, match="it can't be encoded as JSON"):
        sanitize.clean_json(value, 100)


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"a": value, "b": 1}])
def test_how_deep_a_value_is_nested(wrap):
    """Lists and dictionaries count, other values don't."""
    value = "text"
    for levels in range(5):
        assert sanitize.nests_at_most(value, levels)
        assert sanitize.nests_at_most(value, levels + 1)
        assert levels == 0 or not sanitize.nests_at_most(value, levels - 1)
        value = wrap(value)


def test_the_end_of_a_traceback_is_kept():
    """It has exactly the greatest length, and an ellipsis for what was left out."""
    for length in (sanitize.TRACEBACK_LENGTH, 3 * sanitize.TRACEBACK_LENGTH):
        text = sanitize.format_traceback(ValueError("x" * length + " the end"))

        assert len(text) == sanitize.TRACEBACK_LENGTH
        assert text.startswith("…x")
        assert text.endswith("x the end")
    assert sanitize.format_traceback(ValueError("short")) == "ValueError: short"


@pytest.mark.parametrize(
    ("texts", "steps"),
    [
        ({}, []),
        ({"description": "a"}, [["description"]]),
        ({"description": "ä"}, [["description"]]),
        ({"description": "a", "error": "ä"}, [["error"], ["description", "error"]]),
        ({"metadata": '"a"', "error": "b"}, [["error", "metadata"]]),
    ],
)
def test_texts_are_left_out_step_by_step(texts, steps):
    """Those that are not ASCII first, then all of them; the other values stay."""
    values = {"actor_name": "actor", **texts}
    found = list(sanitize.without_texts(make_transition(happened_at=1.0, **values)))

    assert [names for _, names in found] == steps
    for transition, names in found:
        left = {name: text for name, text in values.items() if name not in names}
        expected = make_transition(happened_at=1.0, **left)
        assert transition.fields == expected.fields
        present = transition.details or sanitize.NO_DETAILS
        assert present == (expected.details or sanitize.NO_DETAILS)


def test_ids_of_tasks():
    """A message, a UUID or its text."""
    key = uuid.UUID(int=7)
    message = type("Message", (), {"message_id": str(key)})()

    assert [sanitize.to_uuid(task) for task in (message, key, str(key))] == [key] * 3
    with pytest.raises(ValueError, match="'seven' is not a message, a task, or the id of one"):
        sanitize.to_uuid("seven")


def test_the_longest_text_that_is_parsed():
    """A longer one can't be a key of any model."""
    key = sanitize.UserKey(str, 0, 0, max_length=None)

    assert key.clean("x" * 255) == "x" * 255
    with pytest.raises(ValueError, match="longer than any primary key"):
        key.clean("x" * 256)


@pytest.mark.parametrize("takes_zero", [True, False])
@given(st.sets(st.integers(-7, 7)))
def test_numbers_are_valid_keys_together_if_each_is(takes_zero, numbers):
    """The check of a whole batch agrees with that of one row."""
    key = sanitize.UserKey(int, -5, 5, None, is_integer=True, takes_zero=takes_zero)

    def is_valid(number):
        try:
            return key.clean(number) == number
        except ValueError:
            return False

    assert key.are_valid_numbers(numbers) == all(map(is_valid, numbers))
