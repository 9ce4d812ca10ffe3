"""The signal that tells of a change."""

from __future__ import annotations

from django.dispatch import Signal

#: Sent after the commit, once per row that a flush changed, by ``StateMiddleware``.
#:
#: Arguments:
#:   task(Task): The complete row as committed.
#:   transitions(tuple[Status, ...]): The statuses that this flush merged for the task, oldest
#:     first, the last 100 at most; the last one is ``task.status``.
#:
#: Receivers run in the writer's thread: a slow one delays later flushes, and one that raises
#: is logged and hurts nobody.
task_changed = Signal()
