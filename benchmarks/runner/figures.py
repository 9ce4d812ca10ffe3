"""Figures: what a suite measures, and how the values of all rounds are summarized."""

from __future__ import annotations

import dataclasses
import operator
import statistics


@dataclasses.dataclass(frozen=True)
class Figure:
    """A quantity that a suite measures per contender and round."""

    #: Its key in the dictionary that a measurement returns.
    key: str
    title: str
    unit: str
    #: The contenders whose figure it is divided by, per round.
    ratios: tuple[str, ...] = ()
    #: The contender whose figure is subtracted, per round, or None.
    added_to: str | None = None


@dataclasses.dataclass(frozen=True)
class Spread:
    """The median, the minimum and the maximum of a figure over all rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values):
        """Return the spread of one or more values."""
        return cls(statistics.median(values), min(values), max(values))


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table: a figure, or a ratio or difference derived from it."""

    #: Such as ``both``, ``both / untracked`` or ``cpu - untracked``.
    key: str
    title: str
    unit: str
    is_derived: bool
    #: By contender.  A contender without values is missing.
    spreads: dict[str, Spread]


def rows(figures, samples):
    """Return the rows of a comparison: each figure, followed by its ratios and its difference.

    A figure that has them is compared with each contender of an earlier commit as well.

    Parameters:
      samples(dict): By contender, its figures by key: one dictionary per round.
    """
    found = []
    earlier = tuple(name for name in samples if "@" in name)
    for figure in figures:
        spreads = _spreads(figure.key, samples)
        found.append(Row(figure.key, figure.title, figure.unit, is_derived=False, spreads=spreads))
        for name in figure.ratios and (*figure.ratios, *earlier):
            spreads = _spreads(figure.key, samples, name, _divide)
            key, title = f"{figure.key} / {name}", f"divided by {name}"
            found.append(Row(key, title, "", is_derived=True, spreads=spreads))
        for name in (figure.added_to, *earlier) if figure.added_to else ():
            spreads = _spreads(figure.key, samples, name, operator.sub)
            key, title = f"{figure.key} - {name}", f"more than {name}"
            found.append(Row(key, title, figure.unit, is_derived=True, spreads=spreads))
    return [row for row in found if row.spreads]


def _spreads(key, samples, baseline=None, derive=None):
    """Return the spread of a figure by contender.

    Parameters:
      baseline(str): The contender that all others are compared with, if any.
      derive(Callable): Called per round with the values of a contender and of the baseline;
        returns the value to use.
    """
    spreads = {}
    for contender, measured in samples.items():
        values = [one.get(key) for one in measured]
        if baseline is not None:
            # Without values of the baseline there is nothing to derive.
            others = [] if contender == baseline else samples.get(baseline, [])
            pairs = [(value, other.get(key)) for value, other in zip(values, others)]
            values = [None if None in pair else derive(*pair) for pair in pairs]
        values = [value for value in values if value is not None]
        if values:
            spreads[contender] = Spread.of(values)
    return spreads


def _divide(value, baseline):
    return value / baseline if baseline else None


def format_number(value):
    """Return a number as text, with three significant digits or all digits before the point."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"
