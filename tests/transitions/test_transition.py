"""Ranks, and which of two transitions is newer."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from taskstate.transitions.rank import (
    MAX_TIME,
    join_rank,
    pack_rank,
    rank_below_stamp,
    stamp_of,
    status_of,
    time_of,
)
from taskstate.transitions.status import Status
from taskstate.transitions.transition import newest, sort_key
from tests.support.factories import START, make_transition
from tests.support.strategies import transitions

statuses = st.sampled_from(Status)


@given(statuses, st.integers(0, MAX_TIME), st.integers(0, MAX_TIME))
def test_status_and_time_can_be_read_from_a_rank(status, stamp, time):
    """A rank loses nothing, and its two columns fit a signed bigint."""
    rank = pack_rank(status, stamp, time)

    assert status_of(rank) == status
    assert time_of(rank) == time
    assert stamp_of(rank) == stamp
    assert 0 <= rank_below_stamp(rank) < 2**63
    assert join_rank(stamp_of(rank), rank_below_stamp(rank)) == rank


def test_rank_saturates():
    """A stamp or time beyond its range counts as the end of the range, and never spills over."""
    assert pack_rank(Status.DONE, MAX_TIME + 7, START) == pack_rank(Status.DONE, MAX_TIME, START)
    assert pack_rank(Status.DONE, 1, MAX_TIME + 7) == pack_rank(Status.DONE, 1, MAX_TIME)
    assert pack_rank(Status.DONE, -1, -1) == pack_rank(Status.DONE, 0, 0)


def test_a_later_stamp_wins_whatever_the_clocks_show():
    """A retry is newer than the run that it follows, on a host whose clock is behind too."""
    assert pack_rank(Status.ENQUEUED, 2, 0) > pack_rank(Status.FAILED, 1, MAX_TIME)


def test_a_later_phase_of_a_stamp_wins_whatever_the_clocks_show():
    """The web process's late "enqueued" can't overwrite the worker's "done"."""
    phases = [
        (Status.ENQUEUED, Status.DELAYED),
        (Status.RUNNING,),
        (Status.DONE, Status.SKIPPED, Status.FAILED),
    ]
    for earlier, later in itertools.combinations(phases, 2):
        for one, other in itertools.product(earlier, later):
            assert pack_rank(one, 1, MAX_TIME) < pack_rank(other, 1, 0)


def test_ties_go_to_the_higher_status():
    """In the same millisecond of the same phase: done < skipped < failed."""
    done, skipped, failed = (
        pack_rank(status, 1, START) for status in (Status.DONE, Status.SKIPPED, Status.FAILED)
    )

    assert done < skipped < failed
    assert pack_rank(Status.ENQUEUED, 1, START) < pack_rank(Status.DELAYED, 1, START)


@given(transitions(), transitions(), transitions())
def test_the_merge_is_commutative_associative_and_idempotent(one, two, three):
    """Late, repeated and reordered writes end in the same row."""
    assert newest(one, two) == newest(two, one)
    assert newest(newest(one, two), three) == newest(one, newest(two, three))
    assert newest(one, one) == one


@given(st.lists(transitions(), min_size=1))
def test_the_newest_transition_is_the_greatest_by_sort_key(transitions):
    """Merging any number of transitions means taking their maximum."""
    winner = transitions[0]
    for transition in transitions[1:]:
        winner = newest(winner, transition)

    assert winner == max(transitions, key=sort_key)


def test_the_newest_of_equal_ranks_does_not_depend_on_the_order():
    """Of each pair of different transitions the same one wins, whichever comes first."""
    rank = {"status": Status.RUNNING, "at": START}
    transitions = [
        make_transition(**rank, started_at=None, happened_at=0),
        make_transition(**rank, started_at=START, happened_at=0),
        make_transition(**rank, user_pk="a", happened_at=0),
        make_transition(**rank, tenant="a", happened_at=0),
        make_transition(**rank, tenant="b", happened_at=0),
        make_transition(**rank, description="x", happened_at=0),
        make_transition(**rank, attempt=1, happened_at=0),
    ]
    for one, other in itertools.combinations(transitions, 2):
        assert newest(one, other) is newest(other, one)
