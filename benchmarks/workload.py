"""Messages that one process sends and works off: under what conditions, as a contender's job."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Workload:
    """What a round is made of."""

    broker: str
    database: str
    #: How long the actor takes.
    milliseconds: float
    threads: int
    messages: int

    @property
    def conditions(self):
        """What contenders have in common, for tables and plots."""
        return {
            "broker": self.broker,
            "database": self.database,
            "actor": f"{self.milliseconds} ms",
            "threads": self.threads,
            "messages": self.messages,
        }

    def run(self, arena, contender, *, warm_up):
        """Let a contender do its share of the messages; return that share, and what its process
        has measured."""
        share = contender.share(self.messages)
        done = arena.run(
            contender.name,
            "one_after_the_other",
            database=self.database,
            broker=self.broker,
            threads=self.threads,
            milliseconds=self.milliseconds,
            messages=share,
            warm_up=warm_up,
        )
        return share, done
