"""Durations and percentages, as people read them."""

import datetime

import pytest

from taskstate.utils.durations import elapsed_seconds, format_duration
from taskstate.utils.percentages import format_percent


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0.049, "0.05 s"),
        (9.5, "9.5 s"),
        (9.999, "10 s"),
        (10.9, "10 s"),
        (59.9, "59 s"),
        (60, "1 min 0 s"),
        (3_725, "1 h 2 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations_read_well(seconds, text):
    """In their two greatest units; hosts' clocks may differ."""
    assert format_duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(-5, "0 s"), (59, "59 s"), (3_725, "1 h")])
def test_a_duration_in_one_unit(seconds, text):
    """The greatest one."""
    assert format_duration(seconds, units=1) == text


@pytest.mark.parametrize(
    ("percent", "text"), [(0, "0 %"), (41.5, "41 %"), (99.99, "99 %"), (100, "100 %")]
)
def test_a_percentage_is_rounded_down(percent, text):
    """So that only what is complete is shown as 100 %."""
    assert format_percent(percent) == text


def test_elapsed_seconds():
    """To the end, or until now; there is no duration before the start."""
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    end, now = start + datetime.timedelta(seconds=3), start + datetime.timedelta(seconds=9)

    assert elapsed_seconds(None, None, now) is None
    assert elapsed_seconds(start, None, now) == 9
    assert elapsed_seconds(start, end, now) == 3
