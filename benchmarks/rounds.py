"""Rounds: all contenders once, in turn, again and again, so that what else the machine does
meanwhile meets all of them alike."""

from __future__ import annotations

import dataclasses
from typing import Callable


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Contenders under the same conditions.

    Parameters:
      conditions(dict): What all of them have in common, such as ``{"broker": "redis"}``.
      measures(dict): By contender a function that measures it once, and returns its figures by
        key; a figure that can't be had is None or missing.
    """

    conditions: dict[str, str | int | float]
    measures: dict[str, Callable[[], dict[str, float | None]]]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came of a comparison."""

    conditions: dict[str, str | int | float]
    #: By contender a list of its figures, one dictionary per round.
    samples: dict[str, list[dict[str, float | None]]]

    @property
    def taken(self):
        """In words, how many rounds it took."""
        count = max(len(samples) for samples in self.samples.values())
        return "1 round" if count == 1 else f"{count} rounds"


def turns(names, rounds):
    """Yield (round, name), in the order A B C A B C; the first round is 1."""
    for number in range(1, rounds + 1):
        for name in names:
            yield number, name


def measure(comparison, rounds, tell):
    """Measure each contender in each round.

    Parameters:
      tell(Callable): Is called before each turn with the round and the contender.
    """
    samples = {name: [] for name in comparison.measures}
    for number, name in turns(comparison.measures, rounds):
        tell(number, name)
        samples[name].append(comparison.measures[name]())
    return Measured(comparison.conditions, samples)


def words(conditions):
    """Return conditions in words, such as ``broker redis, messages 1,000``."""
    parts = []
    for name, value in conditions.items():
        parts.append(f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}")
    return ", ".join(parts)
