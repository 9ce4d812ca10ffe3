"""What the event streams of one process share.

That is the limit on their number, the threads in which they query the database, and the check
whether the server is about to stop.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import signal
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Hashable

from taskstate import conf

#: The most streams of one user in one process.  Each visible page of the user has one.
STREAMS_PER_USER = 10
#: The number of threads in which all streams of a process run their queries.  Each has a connection
#: of its own, so the streams use no more connections than this.
QUERY_THREADS = 4
#: The seconds after which a sleeping stream checks whether the server is about to stop.
STOP_CHECK_SECONDS = 1.0

_options = conf.Options()
_numbers = itertools.count()
#: The owner of each slot in use.  There is no lock, which a slot that the garbage collector gives
#: back, at any point of any thread, could wait for for ever.  Each operation on the dict is atomic.
_taken: dict[int, Hashable] = {}


def max_streams() -> int:
    """Return the most streams that this process serves at once."""
    return _options.max_streams


class Slot:
    """The right to one stream.  ``close`` and the garbage collector give it back."""

    #: Gives the slot back; a second call has no effect.
    close: Callable[[], object]

    def __init__(self, owner: Hashable) -> None:
        number = next(_numbers)
        _taken[number] = owner
        finalizer = weakref.finalize(self, _taken.pop, number, None)
        finalizer.atexit = False
        self.close = finalizer


def take_slot(owner: Hashable) -> Slot | None:
    """Return a slot for a stream of ``owner``, or None if the owner or the process has too many."""
    slot = Slot(owner)
    # The new slot is counted too, so that of two threads at most one gets the last slot.
    owners = list(_taken.values())
    if len(owners) > max_streams() or owners.count(owner) > STREAMS_PER_USER:
        slot.close()
        return None
    return slot


@functools.lru_cache(maxsize=None)
def query_threads() -> ThreadPoolExecutor:
    """Return the threads for the queries of all streams.  They start at their first use."""
    return ThreadPoolExecutor(QUERY_THREADS, thread_name_prefix="taskstate-streams")


def _after_fork_in_child() -> None:
    # The threads and streams of the parent don't exist in the child.
    _taken.clear()
    query_threads.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def is_stopping() -> bool:
    """Return whether the server of this process is about to stop, if that can be detected.

    A server waits for running responses, so a stream would delay its end.  Only uvicorn can be
    detected: its signal handler is a method of its server object.  ``should_exit`` is true after a
    signal.  The sockets in ``servers`` no longer accept connections if it stops for another reason.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if getattr(server, "should_exit", False) is True:
        return True
    listening = getattr(server, "servers", None)
    if not isinstance(listening, list) or not listening:
        return False
    return all(hasattr(one, "is_serving") and not one.is_serving() for one in listening)


async def sleep(seconds: float) -> None:
    """Sleep, or return early if the server is about to stop."""
    while not is_stopping():
        step = min(seconds, STOP_CHECK_SECONDS)
        await asyncio.sleep(step)
        seconds -= step
        if seconds <= 0:
            return
