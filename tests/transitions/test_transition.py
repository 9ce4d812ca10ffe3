"""Ranks, and which of two transitions is newer."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstate.transitions.rank import (
    is_running,
    join_rank,
    pack_rank,
    rank_below_stamp,
    stamp_of,
    status_of,
    time_of,
)
from taskstate.transitions.status import Status
from taskstate.transitions.transition import (
    ACTOR_NAME,
    DESCRIPTION,
    DETAILS,
    FIELDS,
    HAPPENED_AT,
    MESSAGE_ID,
    METADATA,
    RANK,
    STORED_MESSAGE,
    TENANT,
    greater,
    has_rare_values,
    sort_key,
)
from taskstate.utils.clock import MAX_TIME
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
    assert greater(one, two) == greater(two, one)
    assert greater(greater(one, two), three) == greater(one, greater(two, three))
    assert greater(one, one) == one


@given(st.lists(transitions(), min_size=1))
def test_the_greater_transition_is_the_greatest_by_sort_key(transitions):
    """Merging any number of transitions means taking their maximum."""
    winner = transitions[0]
    for transition in transitions[1:]:
        winner = greater(winner, transition)

    assert winner == max(transitions, key=sort_key)


def test_the_greater_of_equal_ranks_does_not_depend_on_the_order():
    """Of each pair of different transitions the same one wins, whichever comes first."""
    rank = {"status": Status.RUNNING, "at": START}
    transitions = [
        make_transition(**rank, started_at=None, happened_at=0),
        make_transition(**rank, started_at=START, happened_at=0),
        make_transition(**rank, user_pk="a", happened_at=0),
        make_transition(**rank, tenant="a", happened_at=0),
        make_transition(**rank, tenant="b", happened_at=0),
        make_transition(**rank, description="x", happened_at=0),
        make_transition(**rank, attempt=2, happened_at=0),
    ]
    for one, other in itertools.combinations(transitions, 2):
        assert greater(one, other) is greater(other, one)


@pytest.mark.parametrize(
    ("status", "phase", "order"),
    [
        (Status.ENQUEUED, 0, 0),
        (Status.DELAYED, 0, 1),
        (Status.RUNNING, 1, 0),
        (Status.DONE, 2, 0),
        (Status.SKIPPED, 2, 1),
        (Status.FAILED, 2, 2),
    ],
)
def test_the_layout_of_a_rank_is_fixed(status, phase, order):
    """Ranks are stored, and compared with those of other releases."""
    rank = pack_rank(status, 5, 7)

    assert rank == 5 << 46 | phase << 44 | 7 << 2 | order
    assert stamp_of(rank) == 5
    assert rank_below_stamp(rank) == phase << 44 | 7 << 2 | order
    assert is_running(rank) == (status is Status.RUNNING)
    assert MAX_TIME == 2**42 - 1


def test_users_decide_between_transitions_that_are_equal_otherwise():
    """None is less than every user, whichever transition comes first."""
    at = {"status": Status.RUNNING, "at": START, "happened_at": 0}
    nobody, one, other = (make_transition(**at, user_pk=key) for key in (None, 1, 2))

    for lesser, more in [(nobody, one), (nobody, other), (one, other)]:
        assert greater(lesser, more) is greater(more, lesser) is more


def test_what_counts_as_rare_values():
    """Each of the values that most transitions don't have."""
    assert not has_rare_values(make_transition())
    assert has_rare_values(make_transition(progress=1.0))
    assert has_rare_values(make_transition(metadata="{}"))
    assert has_rare_values(make_transition(stored_message="{}"))


def test_the_indexes_of_values():
    """Raw transitions and raw fields have no names."""
    transition = make_transition(metadata="{}", stored_message="m", tenant="t", progress=1.0)
    fields = transition.fields

    assert transition[RANK] is transition.rank
    assert transition[HAPPENED_AT] is transition.happened_at
    assert transition[FIELDS] is fields
    assert transition[DETAILS] is transition.details
    assert fields[MESSAGE_ID] is fields.message_id
    assert fields[ACTOR_NAME] is fields.actor_name
    assert fields[DESCRIPTION] is fields.description
    assert fields[METADATA] is fields.metadata
    assert fields[STORED_MESSAGE] is fields.stored_message
    assert fields[TENANT] is fields.tenant


def test_what_is_read_from_its_rank():
    """Its status and its time."""
    transition = make_transition(Status.SKIPPED, at=START + 5)

    assert transition.status is Status.SKIPPED
    assert transition.time == START + 5
