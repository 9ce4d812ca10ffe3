"""A contender: one way to track messages, or none at all."""

from __future__ import annotations

import dataclasses

from benchmarks.paths import PEERS, ROOT

OURS = ("django_dramatiq", "taskstate")
#: The function that waits until this package's middleware has written all transitions.
OUR_FLUSH = "taskstate.flush"


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to track messages."""

    name: str
    #: The dotted path of its middleware, or None.
    middleware: str | None
    #: Its entries in ``INSTALLED_APPS``.
    apps: tuple[str, ...] = OURS
    #: Its ``TASKSTATE`` setting.
    taskstate: dict[str, object] = dataclasses.field(default_factory=dict)
    #: The model with one row per message, or None.
    model: str | None = "taskstate.Task"
    #: The dotted path of a function that waits until all transitions are written.  It takes a
    #: number of seconds, and returns whether that was enough.  None if hooks write them.
    flush: str | None = None
    #: Packages that pip installs for it; empty for this package.
    requirements: tuple[str, ...] = ()
    #: The commit that its ``taskstate`` comes from, or None for the working tree.
    commit: str | None = None
    #: Divides the number of messages of a slow contender, so that a round stays short.
    divisor: int = 1
    #: The databases it supports.
    databases: tuple[str, ...] = ("sqlite", "postgres", "mariadb")

    @property
    def is_ours(self):
        """Whether this package's ``StateMiddleware`` writes its rows."""
        return self.flush == OUR_FLUSH

    @property
    def slug(self):
        """Its name in the form that a database name allows."""
        return self.name.replace("-", "_").replace(".", "_").replace("@", "_")

    @property
    def folder(self):
        """The folder that comes first on its ``PYTHONPATH``."""
        if self.commit:
            return PEERS / self.commit
        return PEERS / self.name if self.requirements else ROOT

    def share(self, messages):
        """Return how many of ``messages`` this contender processes."""
        return max(1, messages // self.divisor)
