"""Tables of text: their widths, and what is kept from the terminal."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstate.management import texts
from taskstate.management.table import GAP, Alphabet, Column, lay_out, width_of

COLUMNS = (Column("A", 3), Column("NAME", 4, shrinks=True), Column("TEXT", 6, shrinks=True))
UTF8 = Alphabet("utf-8")


def draw(rows, width, alphabet=UTF8):
    return [GAP.join(line) for line in lay_out(COLUMNS, rows, alphabet, width)]


def test_columns_are_as_wide_as_their_texts():
    """At least as wide as they are to be, at most as wide as they have to be."""
    assert draw([["1", "x", "some text"], ["22222", "", "y"]], None) == [
        "A      NAME  TEXT",
        "1      x     some text",
        "22222        y",
    ]


def test_the_widest_texts_are_shortened():
    """Those that may be; an ellipsis shows it."""
    assert draw([["12345", "a name", "a text of some length"]], 24)[1] == "12345  a name  a text o…"
    assert draw([["12345", "a long name", "a text"]], 20)[1] == "12345  a lo…  a text"


@pytest.mark.parametrize("width", [1, 2, 5, 8, 12])
def test_a_narrow_terminal_shows_what_fits(width):
    """The columns on the left."""
    lines = draw([["12345", "a name", "a text"]], width)
    assert all(0 < width_of(line) <= width for line in lines)


def test_wide_characters_take_two_columns():
    """And what is drawn over another one takes none."""
    assert width_of("報告 7") == 6
    assert width_of("e\u0301") == 1
    assert draw([["1", "報告書の作成", "x"]], 17)[1] == "1    報…   x"


HOSTILE = [
    ("a\x1b[2J\x1b]0;title\x07b", "a\ufffd[2J\ufffd]0;title\ufffdb"),
    ("a\x9b31mb", "a\ufffd31mb"),
    ("one\r\ntwo\tthree\u2028four", "one  two three four"),
    ("abc\u202edcba\u2066\u200b", "abcdcba"),
    ("\ud800", None),
    ("\x00\x7f", "\ufffd\ufffd"),
]


@pytest.mark.parametrize(("text", "shown"), HOSTILE)
def test_what_a_terminal_obeys_is_kept_from_it(text, shown):
    """Escape sequences of 7 and of 8 bits, line breaks, marks of direction, lone surrogates."""
    found = UTF8.clean(text)
    assert found == ("\ufffd" if shown is None else shown)


@given(st.text(), st.sampled_from(["utf-8", "ascii", "latin-1", "cp437", None]), st.integers(1, 60))
def test_any_text_fits_and_is_harmless(text, encoding, width):
    """In one line, in the encoding, without a character that controls anything."""
    alphabet = Alphabet(encoding)
    cell = alphabet.clean(text)
    for line in draw([["1", cell, cell]], width, alphabet):
        line.encode(encoding or "utf-8")
        assert width_of(line) <= width
        assert not {unicodedata.category(c) for c in line} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


@pytest.mark.parametrize(
    ("percent", "bar"),
    [(0, "░░░░░░░░░░   0%"), (55.5, "█████░░░░░  55%"), (99.9, "█████████░  99%")],
)
def test_a_bar_is_full_at_the_end_only(percent, bar):
    """It never promises what isn't done."""
    assert UTF8.bar(percent) == bar
    assert UTF8.bar(100) == "██████████ 100%"
    assert Alphabet("ascii").bar(percent) == bar.replace("█", "#").replace("░", ".")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (-5, "0.0s"),
        (0.29, "0.2s"),
        (9.99, "9.9s"),
        (10, "10s"),
        (59.9, "59s"),
        (187, "3m07s"),
        (18_599, "5h09m"),
        (1_051_300, "12d04h"),
    ],
)
def test_times_in_few_characters(count, text):
    """Cut, not rounded: a minute is over when it is over."""
    assert texts.seconds(count) == text
