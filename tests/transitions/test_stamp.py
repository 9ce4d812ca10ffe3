"""The hybrid logical clock that orders the lives of a message."""

from hypothesis import given
from hypothesis import strategies as st

from taskstate.transitions.rank import pack_rank
from taskstate.transitions.stamp import LAG_MS, LONG_LAG_MS, stamp_of_run, stamps_of_enqueue
from taskstate.transitions.status import Status
from taskstate.utils.clock import MAX_TIME
from tests.support.factories import START

HOUR = 3_600_000
clocks = st.integers(START - HOUR, START + HOUR)


def test_the_wait_of_a_message_that_was_just_created_has_its_own_timestamp():
    """All hosts know it, whatever their clocks show."""
    now = START + LAG_MS

    assert stamps_of_enqueue(0, START, now) == (START, now)


def test_the_wait_of_an_older_message_lies_behind_the_clock():
    """The clock of the host that runs it may be behind; it may be its second life as well."""
    now = START + HOUR

    assert stamps_of_enqueue(0, START, now) == (now - LAG_MS, now)
    assert stamps_of_enqueue(0, START, now, LONG_LAG_MS) == (now - LONG_LAG_MS, now)


def test_a_timestamp_from_the_future_counts_for_nothing():
    """The host that created the message had a clock that was ahead."""
    assert stamps_of_enqueue(0, START + 1, START) == (START, START)


@given(clocks, clocks, clocks)
def test_with_an_earlier_stamp_clocks_do_not_matter(earlier, created_at, now):
    """Each enqueue is later than the one before."""
    waiting, carried = stamps_of_enqueue(earlier, created_at, now)

    assert earlier < waiting <= carried
    assert carried >= now


@given(clocks, clocks, clocks)
def test_a_run_follows_the_wait_of_a_message_that_was_just_created(created_at, age, now):
    """On any host, where the stamp got lost."""
    waiting, _ = stamps_of_enqueue(0, created_at, created_at + age % LAG_MS)

    assert stamp_of_run(0, created_at, now) >= waiting


def test_a_run_takes_the_stamp_that_it_finds():
    """Else two runs of one stamp would be ordered by their hosts' clocks."""
    assert stamp_of_run(START, START + HOUR, START + HOUR) == START


@given(clocks, clocks, clocks)
def test_a_stamp_that_was_used_before_is_not_taken(used, created_at, now):
    """A broker that encodes early sends the stamp of the enqueue before: the run is later."""
    waiting, _ = stamps_of_enqueue(used, created_at, now)

    assert stamp_of_run(-used, created_at, now) >= waiting
    assert stamp_of_run(-used, created_at, now - HOUR) >= waiting


def test_no_number_of_retries_is_too_many():
    """The stamp grows with time, not with each retry: a message may be enqueued without end."""
    stamp, now = START, START
    for _ in range(100_000):
        now += 15_000
        waiting, stamp = stamps_of_enqueue(stamp, START, now)
        assert pack_rank(Status.DELAYED, waiting, now) < pack_rank(Status.RUNNING, stamp, now)
    assert stamp == now < MAX_TIME


def test_any_positive_stamp_is_taken():
    """0 means that no stamp arrived; 1 is a stamp."""
    assert stamp_of_run(1, START, START) == 1
    assert stamp_of_run(0, START, START - 1) == START
    assert stamp_of_run(-START, 0, 0) == START + 1


def test_the_greatest_stamp_is_followed_by_itself():
    """It comes from outside.  A greater one would not be read, and the task would stay enqueued."""
    waiting, carried = stamps_of_enqueue(MAX_TIME, START, START)
    running = stamp_of_run(carried, START, START)

    assert (waiting, carried, running) == (MAX_TIME, MAX_TIME, MAX_TIME)
    assert pack_rank(Status.RUNNING, running, START) > pack_rank(Status.ENQUEUED, waiting, START)
    assert stamp_of_run(-MAX_TIME, START, START) == MAX_TIME
