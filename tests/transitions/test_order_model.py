"""The order of transitions under faults and wrong clocks, by a model of hosts and brokers."""

import pytest

from tests.support.order_model import (
    BROKERS,
    CARRIED,
    EARLY,
    EARLY_NATIVE,
    FAULTS,
    KINDS,
    Case,
    Hops,
    measure,
)

#: Lives per case.  All shares are in percent, and the seed is fixed.
LIVES = 150
NOTHING = {"stuck": 0, "another outcome": 0, "unseen": 0}
SECOND_LIVES = ["at once", "within 1 s", "after 1 to 100 s"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("skew", [0, 1, 3600])
def test_the_clocks_of_hosts_do_not_matter_in_one_life(kind, skew):
    """Where the stamp travels: though they are an hour apart, and one of them jumps."""
    assert measure(Case(CARRIED, kind, skew=skew, jumps=skew > 1), LIVES) == NOTHING


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_row_sticks_where_the_stamp_travels(kind, fault):
    """Whatever happens to its runs, whatever the clocks show, and however many lives it has."""
    for pause in ["one life", *SECOND_LIVES]:
        case = Case(CARRIED, kind, fault, pause, skew=3600, jumps=True)
        assert measure(case, LIVES)["stuck"] == 0


@pytest.mark.parametrize("is_same_object", [False, True], ids=["fresh", "same object"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("broker", BROKERS)
def test_a_second_life_wins(broker, kind, is_same_object):
    """By equal clocks at once, and otherwise if these differ by less than the time in between."""
    for pause in SECOND_LIVES:
        found = measure(Case(broker, kind, "none", pause, is_same_object), LIVES)
        assert (found["stuck"], found["another outcome"]) == (0, 0)
    found = measure(Case(broker, kind, "none", SECOND_LIVES[-1], is_same_object, skew=0.5), LIVES)
    assert found == NOTHING


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("broker", [EARLY, EARLY_NATIVE])
def test_no_row_sticks_where_the_stamp_gets_lost(broker, kind, fault):
    """If the clocks of hosts are as good as NTP makes them."""
    for pause in ["one life", *SECOND_LIVES]:
        for skew in [0, 0.05]:
            assert measure(Case(broker, kind, fault, pause, skew=skew), LIVES)["stuck"] == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("broker", [EARLY, EARLY_NATIVE])
def test_clocks_may_differ_by_seconds_where_the_stamp_gets_lost(broker, kind):
    """In one life, by less than Dramatiq's first backoff."""
    assert measure(Case(broker, kind, skew=1), LIVES) == NOTHING


@pytest.mark.parametrize("broker", BROKERS)
def test_the_second_run_wins_of_one_that_was_killed(broker):
    """From its beginning, if the first one had no outcome.  If it had one, and was retried, there
    are two runs at a time: the one that began later decides, though the other may end later."""
    assert measure(Case(broker, fault="killed while it runs"), LIVES) == NOTHING
    found = measure(Case(broker, fault="killed before the ack"), LIVES)
    assert found["stuck"] == 0
    assert found["another outcome"] < 2


def test_the_model_finds_what_a_rule_misses():
    """A count of enqueueings starts again in a second life, and never arrives if it gets lost."""
    second = measure(Case(pause="after 1 to 100 s"), LIVES, Hops())
    lost = measure(Case(EARLY), LIVES, Hops())

    assert second["another outcome"] > 5
    assert lost["stuck"] == 100
