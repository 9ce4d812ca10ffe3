"""The characters that reach an output: what is kept from a terminal, and bars."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstate.management.charset import Charset

UTF8 = Charset("utf-8")

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


@given(st.text(), st.sampled_from(["utf-8", "ascii", "latin-1", "cp437", None]))
def test_any_text_is_harmless(text, encoding):
    """In one line, in the encoding, without a character that controls anything."""
    line = Charset(encoding).clean(text)
    line.encode(encoding or "utf-8")
    assert not {unicodedata.category(c) for c in line} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


@pytest.mark.parametrize(
    ("percent", "bar"),
    [(0, "░░░░░░░░░░   0 %"), (55.5, "█████░░░░░  55 %"), (99.9, "█████████░  99 %")],
)
def test_a_bar_is_full_at_the_end_only(percent, bar):
    """It never promises what isn't done."""
    assert UTF8.bar(percent) == bar
    assert UTF8.bar(100) == "██████████ 100 %"
    assert Charset("ascii").bar(percent) == bar.replace("█", "#").replace("░", ".")
