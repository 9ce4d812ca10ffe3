"""The rate limit and the backoff, with the time handed in."""

import pytest

from taskstate.writer.pacing import (
    BURST,
    MIN_BACKOFF_SECONDS,
    Backoff,
    TokenBucket,
    longest_backoff,
)


def test_a_quiet_writer_flushes_at_once_and_a_busy_one_once_per_interval():
    """A rate limit, not a delay."""
    bucket = TokenBucket()

    assert [bucket.take(0, 60) for _ in range(BURST)] == [True] * BURST
    assert not bucket.take(0, 60)
    assert bucket.delay(0, 60) == pytest.approx(60)
    assert not bucket.take(59, 60)
    assert bucket.take(60, 60)
    assert not bucket.take(60, 60)


def test_a_quiet_time_fills_the_bucket_and_no_more():
    """After an hour there are as many tokens as at the start."""
    bucket = TokenBucket()
    while bucket.take(0, 1):
        pass

    assert [bucket.take(3600, 1) for _ in range(BURST + 1)] == [True] * BURST + [False]


def test_a_token_is_available_after_exactly_the_delay():
    """Rounding errors of the time do not matter."""
    bucket = TokenBucket()
    now = 0.1
    while bucket.take(now, 0.3):
        pass
    for _ in range(1000):
        now += bucket.delay(now, 0.3)
        assert bucket.take(now, 0.3)
        assert not bucket.take(now, 0.3)


def test_an_interval_of_zero_sets_no_limit():
    """FLUSH_INTERVAL = 0 writes as fast as the database takes it."""
    bucket = TokenBucket()

    assert all(bucket.take(0, 0) for _ in range(100))
    assert bucket.delay(0, 0) == 0


def test_the_backoff_doubles_up_to_its_cap():
    """It never grows beyond the cap, however long the outage."""
    backoff = Backoff(lambda: 1.0)
    backoff.longest = 7.0
    pauses = []
    for _ in range(2000):
        backoff.failed(0)
        pauses.append(backoff.delay(0))

    assert pauses[:3] == pytest.approx([MIN_BACKOFF_SECONDS * 2**n for n in range(3)])
    assert max(pauses) == pauses[-1] == 7.0


@pytest.mark.parametrize(
    ("interval", "longest"), [(0, 1.0), (0.5, 1.0), (2, 4.0), (15, 30.0), (3600, 30.0)]
)
def test_the_cap_is_two_intervals(interval, longest):
    """Rows are up to date soon after an outage, compared with the interval."""
    assert longest_backoff(interval) == longest


@pytest.mark.parametrize(("random", "part"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
def test_the_backoff_is_jittered(random, part):
    """A hundred workers do not try again at the same time, and none tries again at once."""
    backoff = Backoff(lambda: random)
    backoff.failed(10)

    assert backoff.delay(10) == pytest.approx(MIN_BACKOFF_SECONDS * part)
    assert backoff.delay(11) == 0


def test_a_success_ends_the_backoff():
    """The next failure starts small again."""
    backoff = Backoff(lambda: 1.0)
    for _ in range(9):
        backoff.failed(0)
    backoff.succeeded()

    assert backoff.delay(0) == 0
    backoff.failed(0)
    assert backoff.delay(0) == pytest.approx(MIN_BACKOFF_SECONDS)
