"""A workload for one process: it sends messages, then processes them."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Workload:
    """The messages of one round, and the conditions of their processing."""

    broker: str
    database: str
    #: The duration of the actor.
    milliseconds: float
    threads: int
    messages: int
    #: How many milliseconds a round trip to the database takes longer.
    database_delay: float = 0

    @property
    def conditions(self):
        """The conditions that tables and plots show."""
        far = {"database delay": f"{self.database_delay} ms"} if self.database_delay else {}
        return {
            "broker": self.broker,
            "database": self.database,
            **far,
            "actor": f"{self.milliseconds} ms",
            "threads": self.threads,
            "messages": self.messages,
        }

    def run(self, session, contender, *, warm_up, send_alone=False):
        """Run a contender's share of the messages in a process.

        Parameters:
          warm_up(int): The number of messages to process before the measurement.
          send_alone(bool): Whether to send the messages once more without workers.

        Returns:
          A tuple: the number of messages, and the measurements of the process.
        """
        share = contender.share(self.messages)
        done = session.run(
            contender.name,
            "send_then_process",
            database=self.database,
            broker=self.broker,
            database_delay=self.database_delay,
            threads=self.threads,
            milliseconds=self.milliseconds,
            messages=share,
            warm_up=warm_up,
            send_alone=send_alone,
        )
        return share, done
