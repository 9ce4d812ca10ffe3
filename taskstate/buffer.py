"""Where transitions wait for their flush: the push, and one entry per message.

``push`` and ``push_awaited`` are for any thread at any moment, and are a single append.  All other
methods are for the one thread that writes, but that any may ask for ``len``, ``dropped`` and
``oldest``.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from typing import Callable, Iterable, Sequence

from . import values
from .threads import Latch
from .transitions import (
    Pushed,
    Status,
    Transition,
    is_running,
    newest,
    same_hop,
    status_of,
)

#: How many transitions per pending message may wait to be coalesced while the writer is
#: stuck (in a dead socket, say), before the oldest are dropped.
RAW_PER_MESSAGE = 4

#: How often ``oldest`` looks again where the writer has changed the entries meanwhile.
_LOOKS = 100

#: How many transitions of one message a flush remembers for ``task_changed``.
HISTORY_LENGTH = 100

#: How much one statement may take, in bytes: half of MariaDB's usual ``max_allowed_packet``.
MAX_BATCH_BYTES = 8 * 1024 * 1024
#: What a row takes in a statement besides its texts, in bytes: an upper bound for all stores.
_ROW_BYTES = 1_000
#: What a character may take: a control character is ``\\u0001`` in the JSON of a literal.
_CHARACTER_BYTES = 7
#: No row takes more, but for those with extras.
MAX_ROW_BYTES = _ROW_BYTES + _CHARACTER_BYTES * values.TEXT_LENGTH


class Entry:
    """What is pending for one message: the fact that wins, and what it was merged from."""

    __slots__ = ("history", "latches", "since", "uncertain", "winner")

    def __init__(self, transition: Transition) -> None:
        self.winner = transition
        #: When the first of them happened, by the monotonic clock, in seconds.
        self.since = transition.happened_at
        #: The ranks of all transitions merged so far, in no order.
        self.history: tuple[int, ...] = (transition.rank,)
        #: True if an earlier try to write it may have been committed, its answer lost.
        self.uncertain = False
        #: Of those who wait until this entry is settled.
        self.latches: tuple[Latch, ...] = ()

    @property
    def statuses(self) -> tuple[Status, ...]:
        """The statuses that were merged into this entry, oldest first."""
        return tuple(status_of(rank) for rank in sorted(self.history))

    def add(self, transition: Transition) -> None:
        """Merge one more fact about the same message."""
        self.winner = newest(self.winner, transition)
        self._remember(transition.rank)

    def merge(self, newer: Entry) -> None:
        """Merge what came for the same message while this entry was being written."""
        self.winner = newest(self.winner, newer.winner)
        for rank in newer.history:
            self._remember(rank)
        self.latches += newer.latches

    def settle(self) -> None:
        """Let go of those who wait: nothing more becomes of this entry."""
        latches, self.latches = self.latches, ()
        for latch in latches:
            latch.open()

    def size(self) -> int:
        """Return an upper bound for what this entry takes in a statement, in bytes."""
        winner = self.winner
        fields = winner.fields
        texts = len(fields.actor_name) + len(fields.queue_name) + len(fields.description)
        texts += len(fields.model_name) + len(fields.app_name)
        if winner.has_extras:
            more = (*(winner.extras or ()), fields.metadata, fields.stored_message)
            texts += sum(len(value) for value in more if isinstance(value, str))
        return _ROW_BYTES + _CHARACTER_BYTES * texts

    def _remember(self, rank: int) -> None:
        if rank in self.history:
            return
        if is_running(rank) and any(is_running(r) and same_hop(r, rank) for r in self.history):
            return  # Progress: it runs still.
        self.history += (rank,)
        if len(self.history) > HISTORY_LENGTH:
            self.history = tuple(sorted(self.history)[-HISTORY_LENGTH:])


def may_be_large(batch: Sequence[Entry], limit: float = MAX_BATCH_BYTES) -> bool:
    """Return whether a batch may take more than ``limit`` bytes in a statement: a cheap look."""
    return len(batch) * MAX_ROW_BYTES > limit or any(entry.winner.has_extras for entry in batch)


def _that_fit(entries: list[Entry]) -> list[Entry]:
    """Return as many of the first entries as fit into a statement, and one at least."""
    sizes = itertools.accumulate(entry.size() for entry in entries)
    return [e for e, size in zip(entries, sizes) if size <= MAX_BATCH_BYTES] or entries[:1]


class Buffer:
    """What was pushed and is not committed yet, one entry per message.

    Parameters:
      max_pending(int): How many messages may wait; beyond it the oldest are dropped.
      fit(Callable): Makes a transition that fits of what was pushed, or None if there is nothing
        to write.
    """

    def __init__(self, max_pending: int, fit: Callable[[Pushed], Transition | None]) -> None:
        self.max_pending = max_pending
        self._fit = fit
        self._dropped_messages = 0
        #: Transitions that pushers had to drop, by thread: so nobody needs a lock to count.
        self._shed_by_thread: dict[int, int] = {}
        self._raw: deque[Pushed] = deque()
        self._awaited: deque[tuple[Transition, Latch]] = deque()
        self._entries: dict[str, Entry] = {}
        #: Whether somebody may be waiting for an entry.
        self.is_awaited = False

    def __len__(self) -> int:
        """How much waits: messages, and transitions that aren't coalesced yet."""
        return len(self._entries) + len(self._raw) + len(self._awaited)

    @property
    def messages(self) -> int:
        """How many messages have a coalesced entry."""
        return len(self._entries)

    @property
    def dropped(self) -> int:
        """How many facts were given up because the buffer was full: the pending facts of a
        message count as one, a transition that wasn't coalesced yet counts by itself."""
        return self._dropped_messages + sum(list(self._shed_by_thread.values()))

    @property
    def oldest(self) -> float | None:
        """When the oldest fact that waits happened, by the monotonic clock, in seconds; None if
        nothing waits, or only what makes a fact later."""
        found = [self._oldest_entry(), self._oldest_raw()]
        try:
            found.append(self._awaited[0][0].happened_at)
        except IndexError:
            pass
        return min((moment for moment in found if moment is not None), default=None)

    def _oldest_entry(self) -> float | None:
        for _ in range(_LOOKS):
            try:
                first = next(iter(self._entries.values()), None)
            except RuntimeError:  # The writer has changed them at this very moment.
                continue
            return None if first is None else first.since
        return None

    def _oldest_raw(self) -> float | None:
        for place in range(len(self._raw)):
            try:
                pushed = self._raw[place]
            except IndexError:  # The writer has taken them.
                return None
            if isinstance(pushed, Transition):
                return pushed.happened_at
        return None

    @property
    def untouched(self) -> bool:
        """True if nothing was pushed since the last ``absorb``."""
        return not self._raw and not self._awaited

    def push(self, pushed: Pushed) -> None:
        """Add a fact, or what makes one later.  Safe from any thread, and if an exception is
        injected anywhere in it: the append is one C-level operation, and what follows it only
        bounds the memory."""
        raw = self._raw
        raw.append(pushed)
        if len(raw) > RAW_PER_MESSAGE * self.max_pending:
            self._shed()

    def withdraw(self) -> None:
        """Note that no report will be made of what waits: the next call makes another one.  For a
        forked child, whose only thread this is."""
        for pushed in self._raw:
            if not isinstance(pushed, Transition):
                pushed.withdraw()

    def push_awaited(self, transition: Transition, latch: Latch) -> None:
        """Add a fact that somebody waits for: ``latch`` opens once it is settled.  Such facts are
        never dropped: there are no more of them than threads."""
        self._awaited.append((transition, latch))

    def _shed(self) -> None:
        try:
            oldest = self._raw.popleft()
        except IndexError:  # The writer came first and took them all.
            return
        if not isinstance(oldest, Transition):
            oldest.withdraw()
        thread = threading.get_ident()
        self._shed_by_thread[thread] = self._shed_by_thread.get(thread, 0) + 1

    def absorb(self) -> int:
        """Coalesce what was pushed so far; return how many transitions that were."""
        absorbed = 0
        # Counted first: then all that a thread has pushed before it waits is among the raw ones.
        awaited = len(self._awaited)
        for _ in range(len(self._raw)):
            try:
                pushed = self._raw.popleft()
            except IndexError:  # A pusher had to shed it.
                break
            absorbed += self._merge(pushed) is not None
        for _ in range(awaited):
            pushed, latch = self._awaited.popleft()
            try:
                entry = self._merge(pushed)
            except BaseException:
                latch.open()  # Nobody else will.
                raise
            if entry is None:
                latch.open()
            else:
                entry.latches += (latch,)
                self.is_awaited = True
                absorbed += 1
        self._drop_oldest()
        return absorbed

    def _merge(self, pushed: Pushed) -> Entry | None:
        """Merge a fact into the entry of its message, and return that; None if it can't be
        tracked."""
        transition = self._fit(pushed)
        if transition is None:
            return None
        message_id = transition.fields.message_id
        entry = self._entries.get(message_id)
        if entry is None:
            entry = self._entries[message_id] = Entry(transition)
        else:
            entry.add(transition)
        return entry

    def take(self, max_rows: int) -> list[Entry]:
        """Remove and return the oldest entries: at most ``max_rows``, and not more than fit into a
        statement."""
        batch = list(itertools.islice(self._entries.values(), max_rows))
        if may_be_large(batch):
            batch = _that_fit(batch)
        for entry in batch:
            del self._entries[entry.winner.fields.message_id]
        if not self._entries:
            self.is_awaited = False
        return batch

    def put_back(self, batch: Iterable[Entry]) -> None:
        """Return entries whose flush failed, to the front; facts pushed since are merged in."""
        entries = {entry.winner.message_id: entry for entry in batch}
        for message_id, newer in self._entries.items():
            older = entries.get(message_id)
            if older is None:
                entries[message_id] = newer
            else:
                older.merge(newer)
        self._entries = entries
        self.is_awaited = any(entry.latches for entry in entries.values())
        self._drop_oldest()

    def _drop_oldest(self) -> None:
        excess = len(self._entries) - self.max_pending
        if excess <= 0:
            return
        nobody_waits = (key for key, entry in self._entries.items() if not entry.latches)
        oldest = list(itertools.islice(nobody_waits, excess))
        for message_id in oldest:
            del self._entries[message_id]
        self._dropped_messages += len(oldest)
