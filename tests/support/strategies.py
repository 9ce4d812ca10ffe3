"""Hypothesis strategies: transitions about one message, close enough together to tie."""

from hypothesis import strategies as st

from taskstate.transitions.status import Status
from tests.support.factories import START, make_transition


@st.composite
def transitions(draw):
    """A transition about the one message of these tests; many draws collide in rank."""
    status = draw(st.sampled_from(Status))
    started = draw(st.sampled_from([None, START, START + 1]))
    if status in {Status.ENQUEUED, Status.SKIPPED}:
        started = None
    return make_transition(
        status,
        stamp=draw(st.integers(0, 2)),
        at=draw(st.integers(START, START + 2)),
        attempt=draw(st.integers(1, 2)),
        started_at=started,
        user_pk=draw(st.sampled_from([None, 1, 2])),
        tenant=draw(st.sampled_from(["", "a", "A"])),
        description=draw(st.sampled_from(["", "a", "B", "ä"])),
        happened_at=1.0,
    )
