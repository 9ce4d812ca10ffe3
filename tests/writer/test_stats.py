"""The statistics: what they hold, and how those of several writers are summed."""

import dataclasses

import pytest

import taskstate


def test_stats_are_frozen():
    """A picture of a moment."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        taskstate.stats().pending = 1


def test_every_statistic_is_summed():
    """None is forgotten when one is added."""
    names = [field.name for field in dataclasses.fields(taskstate.Stats)]
    last = {"last_error": "a", "last_flush_seconds": 1.0, "oldest_pending_seconds": 9.0}
    one = taskstate.Stats(**{**dict.fromkeys(names, 1), **last})

    total = one + dataclasses.replace(one, oldest_pending_seconds=3.0)

    assert dataclasses.asdict(total) == {**dict.fromkeys(names, 2), **last}
    assert one + taskstate.Stats() == taskstate.Stats() + one == one
