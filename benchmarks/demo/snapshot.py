"""The tasks of a run at one moment."""

from __future__ import annotations

import dataclasses

from django.db.models import Count

from benchmarks.demo.messages import EXPECTED
from taskstate.models import Task


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What the demo shows of its tasks."""

    #: The number of tasks by status.
    counts: dict[str, int]
    #: The tasks that report their progress, oldest first.
    reports: list[Task]
    #: The error of failed and of delayed tasks, by status.
    errors: dict[str, str]

    @classmethod
    def take(cls, run):
        """Return a snapshot of the tasks of a run."""
        tasks = Task.objects.filter(app_name=run)
        counts = tasks.order_by().values_list("status").annotate(Count("pk"))
        reports = tasks.filter(actor_name="report").order_by("enqueued_at")
        with_errors = tasks.filter(status__in=["delayed", "failed"]).exclude(error=None)
        errors = with_errors.order_by().values_list("status", "error").distinct()
        return cls(dict(counts), list(reports), dict(errors))

    @property
    def is_final(self):
        """Whether every task has the status that it is expected to end with."""
        return self.counts == EXPECTED
