"""A pending task: what is to be written for one message, and how large that is."""

from __future__ import annotations

import sys
from typing import Sequence

from taskstate.transitions import sanitize
from taskstate.transitions.rank import is_running, status_of
from taskstate.transitions.status import Status
from taskstate.transitions.transition import (
    DESCRIPTION,
    DETAILS,
    FIELDS,
    HAPPENED_AT,
    METADATA,
    RANK,
    STORED_MESSAGE,
    MessageFields,
    RawTransition,
    Transition,
    greater,
    has_rare_values,
)
from taskstate.utils.sync import Latch

#: How much memory a pending task takes besides its texts, in bytes.
MESSAGE_BYTES = 640
#: How much memory each rank in the history of a pending task takes.
_RANK_BYTES = 44
#: How much memory the details of a transition take besides their texts.
_DETAILS_BYTES = 130

#: The most transitions of one message that a flush remembers for ``task_changed``.
HISTORY_LENGTH = 100

#: The greatest size of one statement, in bytes: half of MariaDB's default ``max_allowed_packet``.
MAX_BATCH_BYTES = 8 * 1024 * 1024
#: The size of a row in a statement without its texts, in bytes: an upper bound for all stores.
_ROW_BYTES = 1_000
#: The greatest size of a character: a control character is ``\\u0001`` in the JSON of a literal.
_CHARACTER_BYTES = 7
#: The greatest size of a row without rare values; see ``transition.has_rare_values``.
MAX_ROW_BYTES = _ROW_BYTES + _CHARACTER_BYTES * sanitize.TEXT_LENGTH


class PendingTask:
    """What is to be written for one message: its latest transition, and what was merged into it."""

    __slots__ = (
        "first_happened_at",
        "has_rare_values",
        "history",
        "latest",
        "maybe_committed",
        "memory",
        "waiters",
    )

    def __init__(self, transition: RawTransition) -> None:
        #: Raw until the writer normalizes it.
        self.latest: Transition = transition  # type: ignore[assignment]
        #: When the first transition happened: its ``happened_at``.
        self.first_happened_at = transition[HAPPENED_AT]
        #: The ranks of the merged transitions, in any order, without progress reports.
        self.history: tuple[int, ...] = (transition[RANK],)
        #: Whether an earlier try may have committed it, but the reply was lost.
        self.maybe_committed = False
        #: Threads wait on these until this pending task is resolved.
        self.waiters: tuple[Latch, ...] = ()
        #: About how much memory it takes, in bytes.
        self.memory = MESSAGE_BYTES + sys.getsizeof(transition[FIELDS][DESCRIPTION])
        #: Whether the latest transition has rare values.
        self.has_rare_values = is_rare = has_rare_values(transition)
        if is_rare:
            self.memory = MESSAGE_BYTES + text_bytes(transition)
            if _is_progress(transition):
                self.history = ()

    @property
    def statuses(self) -> tuple[Status, ...]:
        """The statuses that were merged, oldest first.  Empty if there were only progress reports
        of a message that was running before."""
        return tuple(map(status_of, sorted(self.history)))

    def add(self, transition: RawTransition) -> None:
        """Merge one more transition of the same message.  If both have the same rank, both must be
        normalized."""
        rank = transition[RANK]
        is_rare = has_rare_values(transition)
        if rank > self.latest[RANK] and not (is_rare or self.has_rare_values):
            # The usual case.  The history grows by some bytes, which the next measurement counts.
            self.latest = transition  # type: ignore[assignment]
            self.history += (rank,)
            if len(self.history) > HISTORY_LENGTH:
                self.history = self.history[1:]
            return
        self.latest = greater(self.latest, transition)  # type: ignore[arg-type]
        if not _is_progress(transition):
            self._remember(rank)
        self.has_rare_values = has_rare_values(self.latest)
        self._measure()

    def merge(self, newer: PendingTask) -> None:
        """Merge another pending task of the same message, which was pushed later."""
        self.latest = greater(self.latest, newer.latest)
        self.has_rare_values = has_rare_values(self.latest)
        self.maybe_committed = self.maybe_committed or newer.maybe_committed
        for rank in newer.history:
            self._remember(rank)
        self.waiters += newer.waiters
        self._measure()

    def resolve(self) -> None:
        """Release all waiters: nothing more will be written for this pending task.  It is committed
        or rejected, or its message can't be tracked."""
        waiters, self.waiters = self.waiters, ()
        for latch in waiters:
            latch.open()

    def statement_bytes(self) -> int:
        """Return an upper bound for the size of this pending task in a statement, in bytes."""
        fields, details = MessageFields(*self.latest[FIELDS]), self.latest[DETAILS]
        texts = len(fields.actor_name) + len(fields.queue_name) + len(fields.description)
        texts += len(fields.model_name) + len(fields.app_name) + len(fields.tenant)
        if self.has_rare_values:
            more = (*(details or ()), fields.metadata, fields.stored_message)
            texts += sum(len(value) for value in more if isinstance(value, str))
        return _ROW_BYTES + _CHARACTER_BYTES * texts

    def _measure(self) -> None:
        history = _RANK_BYTES * len(self.history)
        self.memory = MESSAGE_BYTES + history + text_bytes(self.latest)

    def _remember(self, rank: int) -> None:
        if rank in self.history:
            return
        self.history += (rank,)
        if len(self.history) > HISTORY_LENGTH:
            self.history = tuple(sorted(self.history)[-HISTORY_LENGTH:])


def _is_progress(transition: RawTransition) -> bool:
    """Return whether a transition is a progress report of a run whose start was pushed before.

    Such a transition has a progress or a progress text; the transition of a start has neither.
    """
    details = transition[DETAILS]
    if details is None or not is_running(transition[RANK]):
        return False
    return details.progress is not None or details.progress_text is not None


def text_bytes(transition: RawTransition) -> int:
    """Return how much memory the texts of a transition take, in bytes: 1, 2 or 4 per character.
    Names are not counted: they are short, and shared."""
    fields, details = transition[FIELDS], transition[DETAILS]
    size = sys.getsizeof(fields[DESCRIPTION])
    for text in (fields[METADATA], fields[STORED_MESSAGE]):
        if text is not None:
            size += sys.getsizeof(text)
    if details is not None:
        size += _DETAILS_BYTES
        for value in details:
            if type(value) is str:
                size += sys.getsizeof(value)
    return size


def may_be_large(batch: Sequence[PendingTask], limit: float = MAX_BATCH_BYTES) -> bool:
    """Return whether a batch may take more than ``limit`` bytes in a statement.  This is a quick
    estimate; ``statement_bytes`` is more exact."""
    return len(batch) * MAX_ROW_BYTES > limit or any(each.has_rare_values for each in batch)
