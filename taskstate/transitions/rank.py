"""A rank: one integer that orders the transitions of one message.

A rank orders transitions by these values, in this sequence:

1. the *stamp*: when the message was last enqueued, by a hybrid logical clock (see ``stamp``);
2. the *phase*: queued, running or finished;
3. the time of the transition, in milliseconds since 1970;
4. the status, for two transitions of the same phase in the same millisecond.

The table stores a rank in two columns, ``stamp`` and ``rank``, since a bigint can't hold it.
"""

from __future__ import annotations

from taskstate.transitions.status import Status
from taskstate.utils.clock import MAX_TIME

RUNNING_PHASE = 1
FINISHED_PHASE = 2
#: Maps a status to its phase, and its order within the phase.  With the same stamp, a later phase
#: is always greater.  The order decides between two transitions of one phase in the same
#: millisecond.
_PLACES = {
    Status.ENQUEUED: (0, 0),
    Status.DELAYED: (0, 1),
    Status.RUNNING: (RUNNING_PHASE, 0),
    Status.DONE: (FINISHED_PHASE, 0),
    Status.SKIPPED: (FINISHED_PHASE, 1),
    Status.FAILED: (FINISHED_PHASE, 2),
}

# A rank has 88 bits.  From the most significant to the least: 42 for the stamp, 2 for the phase, 42
# for the time, 2 for the order.  Stamps and times are milliseconds since 1970, which last until
# 2109.
_ORDER_BITS = 2
_TIME_BITS = MAX_TIME.bit_length()
_PHASE_BITS = 2

TIME_SHIFT = _ORDER_BITS
PHASE_SHIFT = TIME_SHIFT + _TIME_BITS
STAMP_SHIFT = PHASE_SHIFT + _PHASE_BITS

ORDER_MASK = (1 << _ORDER_BITS) - 1
PHASE_MASK = (1 << _PHASE_BITS) - 1
_MASK_BELOW_STAMP = (1 << STAMP_SHIFT) - 1

#: Maps a status to its rank at stamp 0 and time 0.  The keys are strings, since the hash of a
#: member of an enumeration is computed in Python, which is slow.
_BASES = {status.value: phase << PHASE_SHIFT | order for status, (phase, order) in _PLACES.items()}
#: Maps these ranks back to their statuses.
_STATUSES = {_BASES[status.value]: status for status in _PLACES}
_STATUS_MASK = PHASE_MASK << PHASE_SHIFT | ORDER_MASK


def pack_rank(status: Status, stamp: int, time_ms: int) -> int:
    """Return the rank of the transition to ``status`` at ``time_ms``, of a message with a stamp.

    Both are milliseconds since 1970.  A value out of range is replaced by the end of the range.
    """
    if not 0 <= stamp <= MAX_TIME:
        stamp = min(max(stamp, 0), MAX_TIME)
    if not 0 <= time_ms <= MAX_TIME:
        time_ms = min(max(time_ms, 0), MAX_TIME)
    return stamp << STAMP_SHIFT | _BASES[status._value_] | time_ms << TIME_SHIFT


def base_of(status: Status) -> int:
    """Return the rank of ``status`` at stamp 0 and time 0.  The hooks add the stamp and the time
    themselves, which saves a call of ``pack_rank``: both are in range there."""
    return _BASES[status._value_]


def stamp_of(rank: int) -> int:
    """Return the stamp of a rank, for the column ``stamp``."""
    return rank >> STAMP_SHIFT


def rank_below_stamp(rank: int) -> int:
    """Return a rank without its stamp, for the column ``rank``."""
    return rank & _MASK_BELOW_STAMP


def join_rank(stamp: int, rank: int) -> int:
    """Return a rank from the values of the two columns."""
    return stamp << STAMP_SHIFT | rank


def status_of(rank: int) -> Status:
    """Return the status of a rank."""
    return _STATUSES[rank & _STATUS_MASK]


def is_running(rank: int) -> bool:
    """Return whether a rank has the status "running"."""
    return rank >> PHASE_SHIFT & PHASE_MASK == RUNNING_PHASE


def time_of(rank: int) -> int:
    """Return the time of a rank: when the transition happened, in milliseconds since 1970."""
    return rank >> TIME_SHIFT & MAX_TIME
