"""What was pushed and is not committed yet: one pending task per message.

Any thread may push to its queue; see ``transition_queue``.  Any thread may read the length,
``memory``, ``dropped`` and ``oldest_happened_at``.  Only the writer may call the other methods.
"""

from __future__ import annotations

import itertools
from typing import Callable, Iterable, Iterator, Sequence

from taskstate.conf import Config
from taskstate.transitions.pending import MAX_BATCH_BYTES, PendingTask, may_be_large
from taskstate.transitions.sanitize import is_canonical_uuid
from taskstate.transitions.transition import (
    FIELDS,
    MESSAGE_ID,
    RANK,
    RawTransition,
    Transition,
)
from taskstate.utils.sync import Latch
from taskstate.writer.transition_queue import MAX_PENDING, MAX_PENDING_BYTES, TransitionQueue

#: The queue holds at most this many times ``max_pending`` items that are not coalesced yet.  They
#: gather while the writer is blocked, by a dead connection for example.  Beyond that the oldest are
#: dropped.
QUEUE_ITEMS_PER_PENDING = 4
#: The queue may always take ``MAX_PENDING_BYTES`` divided by this.  A thread that pushes can't drop
#: pending tasks, and should not drop the newest states only because the writer is busy for a
#: moment.
_QUEUE_SHARE = 2


#: Normalizes transitions; see ``Buffer``.
Normalize = Callable[[Sequence[RawTransition]], "list[Transition | None]"]


class Buffer:
    """What was pushed and is not committed yet.

    Parameters:
      max_pending(int): The most messages that may wait.  Beyond that the oldest are dropped.
      normalize(Callable): Normalizes transitions, all at once; returns None in place of each whose
        message can't be tracked.
      max_bytes(int): About how much memory they may take, in bytes.  Beyond that the oldest are
        dropped.
    """

    def __init__(
        self,
        max_pending: int,
        normalize: Normalize,
        max_bytes: int = Config.max_pending_bytes,
    ) -> None:
        self._normalize = normalize
        self.queue = TransitionQueue()
        self._dropped = 0
        #: The pending tasks, by the canonical ids of their messages.
        self._pending: dict[str, PendingTask] = {}
        #: Those of them that threads wait for.
        self._awaited: dict[str, PendingTask] = {}
        #: How much memory the pending tasks take, in bytes.  Between two calls it is the sum of
        #: their ``memory``.
        self._pending_bytes = 0
        #: When the oldest pending task began.  Other threads read this.
        self._oldest_pending: float | None = None
        self.set_limits(max_pending, max_bytes)

    def set_limits(
        self, max_pending: int, max_bytes: int, batch_size: int = Config.max_batch_size
    ) -> None:
        """Set the most messages that may wait, the most memory that they may take, and how many
        fill a batch."""
        self.max_pending = max_pending
        self.max_bytes = max_bytes
        #: So many pending tasks are written at once, however often flushes are due.  They are no
        #: more than half of what may wait: else some would be dropped while the rest gathers.
        self.full_batch = min(batch_size, max(1, max_pending // 2))
        self._update_queue_limits()

    def _update_queue_limits(self) -> None:
        """Give the queue the memory that the pending tasks do not take, and publish the time of the
        oldest one."""
        left = self.max_bytes - self._pending_bytes
        self.queue.set_limits(
            max_items=QUEUE_ITEMS_PER_PENDING * self.max_pending,
            max_bytes=max(left, self.max_bytes // _QUEUE_SHARE),
            wake_at=self.full_batch,  # As many may fill a batch.
        )
        oldest = next(iter(self._pending.values()), None)
        self._oldest_pending = None if oldest is None else oldest.first_happened_at

    def __len__(self) -> int:
        """Return how many pending tasks there are, plus the items that are not coalesced yet."""
        return len(self._pending) + len(self.queue)

    @property
    def pending_count(self) -> int:
        """How many pending tasks there are."""
        return len(self._pending)

    @property
    def awaited_count(self) -> int:
        """How many pending tasks there are that threads wait for."""
        return len(self._awaited)

    @property
    def memory(self) -> int:
        """About how much memory everything that waits takes, in bytes."""
        return self._pending_bytes + self.queue.memory

    @property
    def is_half_empty(self) -> bool:
        """Whether at most half of the limits are reached, in messages and in bytes."""
        return len(self) <= self.max_pending // 2 and self.memory <= self.max_bytes // 2

    @property
    def dropped(self) -> int:
        """How many states were dropped because the buffer was full.  The pending states of a
        message count as one; a transition that is not coalesced yet counts by itself."""
        return self._dropped + self.queue.dropped

    @property
    def exceeded_setting(self) -> str:
        """The setting that was exceeded when something was dropped last."""
        return self.queue.exceeded_setting

    @property
    def oldest_happened_at(self) -> float | None:
        """When the oldest transition that waits happened, by the monotonic clock, in seconds.  None
        if nothing waits, or only deferred transitions."""
        found = (self._oldest_pending, self.queue.oldest_happened_at)
        return min((moment for moment in found if moment is not None), default=None)

    def push_awaited(self, transition: RawTransition, latch: Latch) -> None:
        """Add a transition that a thread waits for.  ``latch`` opens when its pending task is
        resolved."""
        self.queue.awaited.append((transition, latch))

    def coalesce(self) -> int:
        """Merge what was pushed into pending tasks.  Return how many transitions there were."""
        queue = self.queue
        # Counted first, so that what a thread pushed before it waits is coalesced at the same time.
        awaited = len(queue.awaited)
        coalesced = 0
        for transition in queue.pop_all():
            coalesced += self._merge(transition) is not None
        for _ in range(awaited):
            coalesced += self._merge_awaited(*queue.awaited.popleft())
        self._drop_oldest()
        return coalesced

    def _merge_awaited(self, transition: RawTransition, latch: Latch) -> bool:
        """Merge a transition that a thread waits for.  Return False if its message can't be
        tracked."""
        try:
            pending = self._merge(transition)
        except BaseException:
            latch.open()  # It belongs to no pending task that could open it.
            raise
        if pending is None:
            latch.open()
            return False
        pending.waiters += (latch,)
        self._awaited[pending.latest[FIELDS][MESSAGE_ID]] = pending
        return True

    def _merge(self, transition: RawTransition) -> PendingTask | None:
        """Merge a transition into the pending task of its message, and return that.  Return None if
        the message can't be tracked because of its id."""
        message_id = transition[FIELDS][MESSAGE_ID]
        pending = self._pending.get(message_id)
        if pending is None:
            if not is_canonical_uuid(message_id):
                (normalized,) = self._normalize([transition])
                if normalized is None:
                    return None
                transition = normalized
                message_id = normalized.message_id
                pending = self._pending.get(message_id)
            if pending is None:
                pending = self._pending[message_id] = PendingTask(transition)
                self._pending_bytes += pending.memory
                return pending
        before = pending.memory
        if transition[RANK] == pending.latest[RANK]:
            self._merge_equal(pending, transition)
        else:
            pending.add(transition)
        self._pending_bytes += pending.memory - before
        return pending

    def _merge_equal(self, pending: PendingTask, transition: RawTransition) -> None:
        """Merge a transition of equal rank: the normalized fields decide, as they do in SQL."""
        normalized, latest = self._normalize([transition, pending.latest])
        if normalized is not None and latest is not None:
            pending.latest = latest
            pending.add(normalized)

    def pop_batch(self, max_rows: int, *, only_awaited: bool = False) -> list[PendingTask]:
        """Remove the oldest pending tasks, normalize them, and return them: at most ``max_rows``,
        and no more than fit into a statement.  The list is empty if there are none.

        Parameters:
          only_awaited(bool): Take only those that threads wait for.
        """
        source = self._awaited if only_awaited else self._pending
        batch: list[PendingTask] = []
        while source and not batch:
            oldest = list(itertools.islice(source.values(), max_rows))
            if may_be_large(oldest):
                oldest = _limit_size(oldest)
            # All of them are normalized before any is removed: an error loses none.
            batch = self._normalize_latest(oldest)
            self._remove(list(itertools.islice(source, len(oldest))))
        self._update_queue_limits()
        return batch

    def _normalize_latest(self, pending_tasks: list[PendingTask]) -> list[PendingTask]:
        """Normalize the latest transitions of pending tasks.  Return those whose messages can be
        tracked, and release the waiters of the others."""
        normalized = self._normalize([pending.latest for pending in pending_tasks])
        for pending, latest in zip(pending_tasks, normalized):
            if latest is None:
                pending.resolve()
            else:
                pending.latest = latest
        if None not in normalized:
            return pending_tasks
        return [each for each, latest in zip(pending_tasks, normalized) if latest is not None]

    def _remove(self, message_ids: Sequence[str]) -> None:
        """Remove pending tasks."""
        pop = self._pending.pop
        self._pending_bytes -= sum([pop(message_id).memory for message_id in message_ids])
        if self._awaited:
            for message_id in message_ids:
                self._awaited.pop(message_id, None)

    def requeue(self, batch: Iterable[PendingTask]) -> None:
        """Put pending tasks that were not written back to the front.  What was pushed since then is
        merged into them."""
        requeued = {pending.latest.message_id: pending for pending in batch}
        for message_id, newer in self._pending.items():
            older = requeued.get(message_id)
            if older is None:
                requeued[message_id] = newer
                continue
            if self._normalize_latest([newer]):
                older.merge(newer)
        self._pending = requeued
        self._pending_bytes = sum(pending.memory for pending in requeued.values())
        self._awaited = {key: pending for key, pending in requeued.items() if pending.waiters}
        self._drop_oldest()

    def _drop_oldest(self) -> None:
        """Drop the oldest pending tasks that no thread waits for, until the limits are met."""
        if len(self._pending) > self.max_pending:
            self.queue.exceeded_setting = MAX_PENDING
            surplus = len(self._pending) - self.max_pending
            self._drop(list(itertools.islice(_droppable_ids(self._pending), surplus)))
        if self._pending_bytes > self.max_bytes:
            self.queue.exceeded_setting = MAX_PENDING_BYTES
            self._drop(_oldest_ids_by_size(self._pending, self._pending_bytes - self.max_bytes))
        self._update_queue_limits()

    def _drop(self, message_ids: Sequence[str]) -> None:
        self._remove(message_ids)
        self._dropped += len(message_ids)


def _droppable_ids(pending_tasks: dict[str, PendingTask]) -> Iterator[str]:
    """Yield the ids of the pending tasks that no thread waits for, oldest first."""
    return (key for key, pending in pending_tasks.items() if not pending.waiters)


def _oldest_ids_by_size(pending_tasks: dict[str, PendingTask], size: int) -> list[str]:
    """Return the ids of the oldest pending tasks that together take this many bytes."""
    found = []
    for message_id in _droppable_ids(pending_tasks):
        found.append(message_id)
        size -= pending_tasks[message_id].memory
        if size <= 0:
            break
    return found


def _limit_size(oldest: list[PendingTask]) -> list[PendingTask]:
    """Return as many of the first pending tasks as fit into a statement, but at least one."""
    sizes = itertools.accumulate(pending.statement_bytes() for pending in oldest)
    return [each for each, size in zip(oldest, sizes) if size <= MAX_BATCH_BYTES] or oldest[:1]
