"""The queue between the threads that push and the writer.

Any thread may push at any moment.  A push is a single append; what follows it only limits the
memory.  The writer removes the items.

The memory of the items is counted without a lock.  Small transitions are counted by the length of
the queue.  The texts of large ones are counted by the length of a second deque, which has one item,
a unit, per 512 bytes.  One operation in C adds to it or removes from it.
"""

from __future__ import annotations

import itertools
import sys
import weakref
from collections import deque
from typing import TYPE_CHECKING, Callable, Iterator, Union

from taskstate.transitions.pending import text_bytes
from taskstate.transitions.transition import (
    DETAILS,
    FIELDS,
    HAPPENED_AT,
    METADATA,
    STORED_MESSAGE,
    DeferredTransition,
    RawTransition,
    has_rare_values,
)
from taskstate.utils.sync import Latch

#: The settings that limit how much may wait.
MAX_PENDING = "MAX_PENDING"
MAX_PENDING_BYTES = "MAX_PENDING_BYTES"

if TYPE_CHECKING:
    #: The reference to a deferred transition is weak.  It is the run itself, which may take much
    #: memory, and has no progress to report after it has ended.
    Item = Union[RawTransition, "weakref.ref[DeferredTransition]"]

#: How much memory a small transition takes before it is coalesced, in bytes.
TRANSITION_BYTES = 550
#: The texts of large transitions are counted in units of this many bytes.
_UNIT_BYTES = 512


class TransitionQueue:
    """What was pushed and is not coalesced yet."""

    def __init__(self) -> None:
        #: Called when enough items wait, or when large transitions take half of the memory, so that
        #: the writer can coalesce them in time.  It must never wait.
        self.wake_writer: Callable[[], None] = _do_nothing
        #: The setting that was exceeded when something was dropped last.
        self.exceeded_setting = ""
        #: How many items were dropped.  Threads add to it without a lock, so it may be a few short.
        self.dropped = 0
        #: The transitions that threads wait for, each with the latch that releases the thread.
        #: They are never dropped; there are no more of them than threads.
        self.awaited: deque[tuple[RawTransition, Latch]] = deque()
        self._items: deque[Item] = deque()
        #: One item per unit of the texts of large transitions.
        self._units: deque[None] = deque()
        #: A push checks the limits if there are more items than this.
        self._next_check = 0
        self.set_limits(max_items=1, max_bytes=0)

    def set_limits(self, *, max_items: int, max_bytes: int, wake_at: int = sys.maxsize) -> None:
        """Set the most items that may wait, and about how much memory they may take, in bytes.
        Beyond that the oldest are dropped.

        Parameters:
          wake_at(int): The writer is woken once, when more items than this wait, or more than half
            of what may wait.
        """
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._next_check = min(self._update_limit() // 2, wake_at)

    def _update_limit(self) -> int:
        """Calculate how many items there may be now, for the next pushes, and return it."""
        room = self._max_bytes - _UNIT_BYTES * len(self._units)
        # The newest item stays, however large it is.
        self._limit = limit = min(self._max_items, max(1, room // TRANSITION_BYTES))
        self._next_check = min(limit, self._next_check)
        return limit

    def __len__(self) -> int:
        return len(self._items) + len(self.awaited)

    @property
    def memory(self) -> int:
        """About how much memory the items take, in bytes."""
        size = TRANSITION_BYTES * len(self._items)
        if size:  # Without items, units that are left count for nothing.
            size += _UNIT_BYTES * len(self._units)
        return size

    @property
    def oldest_happened_at(self) -> float | None:
        """When the oldest transition happened, by the monotonic clock, in seconds.  None if no
        transitions wait, or only deferred ones."""
        found = [self._oldest_item_time()]
        try:
            found.append(self.awaited[0][0][HAPPENED_AT])
        except IndexError:
            pass
        return min((moment for moment in found if moment is not None), default=None)

    def _oldest_item_time(self) -> float | None:
        for place in range(len(self._items)):
            try:
                item = self._items[place]
            except IndexError:  # The writer has removed it.
                return None
            if isinstance(item, tuple):
                return item[HAPPENED_AT]
        return None

    # For any thread.

    def push(self, transition: RawTransition) -> None:
        """Add a transition.

        This is safe in any thread, even if an exception is raised anywhere in it: the append is one
        operation in C, and what follows it only limits the memory.
        """
        items = self._items
        items.append(transition)
        fields = transition[FIELDS]
        # This is has_rare_values without the call.
        if (
            transition[DETAILS] is not None
            or fields[METADATA] is not None
            or fields[STORED_MESSAGE] is not None
        ):
            self._count_units(transition)
        if len(items) > self._next_check:
            self._check_limits()

    def push_deferred(self, deferred: DeferredTransition) -> None:
        """Add an object that makes a transition later, if it still exists then.  This is as safe as
        ``push``."""
        self._items.append(weakref.ref(deferred))
        if len(self._items) > self._next_check:
            self._check_limits()

    def _count_units(self, transition: RawTransition) -> None:
        """Count the texts of a large transition that was just pushed.  If an exception prevents
        that, it counts as a small one, and ``pop_all`` corrects the count."""
        units = self._units
        units.extend(itertools.repeat(None, _units_of(transition)))
        self._update_limit()
        if _UNIT_BYTES * len(units) > self._max_bytes // 2:
            self.wake_writer()

    def _discard_units(self, number: int) -> None:
        discard = self._units.popleft
        try:
            for _ in range(number):
                discard()
        except IndexError:  # They were not counted, because of an exception.
            pass

    def _check_limits(self) -> None:
        """Drop items if there are too many; otherwise there are enough to wake the writer."""
        if len(self._items) > self._limit:
            self._drop_oldest()
        else:
            self._next_check = self._limit
            self.wake_writer()

    def _drop_oldest(self) -> None:
        """Drop the oldest items until the limits are met."""
        while len(self._items) > self._update_limit():
            is_too_many = len(self._items) > self._max_items
            try:
                oldest = self._items.popleft()
            except IndexError:  # The writer has removed them all.
                return
            self.exceeded_setting = MAX_PENDING if is_too_many else MAX_PENDING_BYTES
            self.dropped += 1
            self._discard_units(_units_of(oldest))
            _notify_dropped(oldest)

    # For the writer.

    def pop_all(self) -> Iterator[RawTransition]:
        """Remove and yield the transitions that wait, oldest first."""
        discarded = 0
        # Counted before the items, so that these units belong to items that are removed now.
        units = len(self._units)
        for _ in range(len(self._items)):
            try:
                item = self._items.popleft()
            except IndexError:  # A thread that pushes has dropped it.
                break
            transition = item if isinstance(item, tuple) else _transition_of(item)
            if transition is not None:
                yield transition
            if self._units:  # At once, since its pending task is already counted.
                size = _units_of(item)
                discarded += size
                self._discard_units(size)
        # Exactly the units from before are removed, so an error in counting lasts until the next
        # call at most.
        if discarded < units:
            self._discard_units(units - discarded)
        else:
            self._units.extend(itertools.repeat(None, discarded - units))

    def notify_dropped(self) -> None:
        """Notify all deferred transitions that they were dropped.  Call it in a forked child, so
        that its runs push their next progress again."""
        for item in self._items:
            _notify_dropped(item)


def _units_of(item: Item) -> int:
    """Return the units of the texts of an item: 0 for a small or deferred transition."""
    if not isinstance(item, tuple) or not has_rare_values(item):
        return 0
    return round(text_bytes(item) / _UNIT_BYTES)


def _transition_of(reference: weakref.ref[DeferredTransition]) -> RawTransition | None:
    """Return the transition of a deferred one, or None if there is nothing to write."""
    deferred = reference()
    return None if deferred is None else deferred.to_transition()


def _notify_dropped(item: Item) -> None:
    deferred = None if isinstance(item, tuple) else item()
    if deferred is not None:
        deferred.on_dropped()


def _do_nothing() -> None:
    """Do nothing: the default of ``wake_writer``."""
