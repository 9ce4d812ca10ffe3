"""The signal that is sent when a task has changed."""

from __future__ import annotations

from django.dispatch import Signal

#: ``StateMiddleware`` sends it after a commit, once for each row that the flush has changed.
#:
#: Arguments:
#:   task(Task): The row as it was committed, with all its fields.
#:   transitions(tuple[Status, ...]): The statuses that the task has entered since the last flush,
#:     oldest first; at most the last 100.  The last one is ``task.status``.  ``Status.RUNNING`` is
#:     in it once per start, including the start of each retry.  It is empty if only the progress
#:     has changed.
#:
#: Receivers run in the writer's thread, so a slow receiver delays later flushes.  An exception that
#: a receiver raises is logged and has no other effect.  With ``SYNCHRONOUS`` it is sent at once, in
#: the calling thread, and inside the caller's transaction if there is one.
task_changed = Signal()
