"""Measures contenders in rounds.

Each round measures every contender once, so that other load on the machine affects all of them
alike.
"""

from __future__ import annotations

import dataclasses
from typing import Callable


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Contenders to measure under the same conditions."""

    #: The conditions, such as ``{"broker": "redis"}``.
    conditions: dict[str, str | int | float]
    #: By contender, a function that measures it once and returns its figures by key.  A figure that
    #: can't be measured is None or missing.
    measures: dict[str, Callable[[], dict[str, float | None]]]


@dataclasses.dataclass(frozen=True)
class Measured:
    """The results of a comparison."""

    conditions: dict[str, str | int | float]
    #: By contender, its figures by key: one dictionary per round.
    samples: dict[str, list[dict[str, float | None]]]

    @property
    def rounds(self):
        """The number of rounds, as text."""
        count = max(len(samples) for samples in self.samples.values())
        return "1 round" if count == 1 else f"{count} rounds"


def turns(names, rounds):
    """Yield (round, name) in the order A B C A B C; the first round is 1."""
    for number in range(1, rounds + 1):
        for name in names:
            yield number, name


def measure(comparison, rounds, on_turn):
    """Measure each contender in each round.

    Parameters:
      on_turn(Callable): Called before each turn with the round and the contender.
    """
    samples = {name: [] for name in comparison.measures}
    for number, name in turns(comparison.measures, rounds):
        on_turn(number, name)
        samples[name].append(comparison.measures[name]())
    return Measured(comparison.conditions, samples)


def describe(conditions):
    """Return conditions as text, such as ``broker redis, messages 1,000``."""
    parts = []
    for name, value in conditions.items():
        parts.append(f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}")
    return ", ".join(parts)
