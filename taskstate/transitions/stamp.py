"""The stamp of a message: when it was last enqueued, by a hybrid logical clock.

A stamp is a time in milliseconds since 1970 that travels in the message's options.  It grows each
time that the message is enqueued, whatever the clocks of the hosts say, and a run takes the stamp
that it finds.  So transitions of a message are ordered by their stamps first.  Clocks decide only
between transitions of the same stamp and phase.

A stamp may get lost:

- A broker may encode a message before it calls ``before_enqueue``.  Then an option that this hook
  sets does not arrive.
- A message may be enqueued again with the same id and new options, for example when a pipeline runs
  again.

Then the clocks of the hosts decide.  As long as they differ by less than ``LAG_MS``, the row is
still correct in the end: a message that waits for a worker gets the lowest possible stamp, so that
the stamp of its run is greater, by the clock of any host.  The message's own timestamp is best for
that, since all hosts know it.

This module reads no clock.
"""

from __future__ import annotations

from typing import Tuple

from taskstate.utils.clock import MAX_TIME

#: How far the stamp of a message that waits may be behind the clock, in milliseconds, if there is
#: no earlier stamp.  If a message with new options is enqueued again within this time after its
#: last stamp, its row does not change before it runs.
LAG_MS = 1_000
#: The same for a broker that is known to lose stamps.
LONG_LAG_MS = 10_000

#: The two stamps of one enqueue: the stamp of the transition to enqueued or delayed, and the stamp
#: that the message carries to its run.
Stamps = Tuple[int, int]


def stamps_of_enqueue(earlier: int, created_at: int, now: int, lag: int = LAG_MS) -> Stamps:
    """Return the stamps of a message that is being enqueued.

    Parameters:
      earlier(int): Its last stamp; 0 if it has none.
      created_at(int): Its own timestamp.
      now(int): The current time.  All three are milliseconds since 1970.
      lag(int): ``LAG_MS``, or ``LONG_LAG_MS``.
    """
    if earlier:
        waiting = min(earlier + 1, MAX_TIME)
        return waiting, max(waiting, now)
    return max(now - lag, min(created_at, now)), now


def stamp_of_run(found: int, created_at: int, now: int) -> int:
    """Return the stamp of a message that a worker has received.

    Parameters:
      found(int): The stamp that arrived with it; 0 if none did.  A negative number is an earlier
        stamp, negated: the message was enqueued again, and the broker encoded it before it got the
        new one.
      created_at(int): Its own timestamp.
      now(int): The current time.  All three are milliseconds since 1970.
    """
    if found > 0:
        return found
    return min(max(1 - found if found else 0, created_at, now), MAX_TIME)
