"""What is measured: its name, its unit, and what becomes of its values over the rounds."""

from __future__ import annotations

import dataclasses
import operator
import statistics


@dataclasses.dataclass(frozen=True)
class Figure:
    """One thing that a suite measures per contender and round."""

    #: Its name in what a measurement returns.
    key: str
    title: str
    unit: str
    #: The contenders to divide it by, round by round.
    ratios: tuple[str, ...] = ()
    #: The contender to subtract, round by round, or None.
    added_to: str | None = None


@dataclasses.dataclass(frozen=True)
class Spread:
    """The median of a figure over the rounds, its least and its greatest value."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values):
        """Return the spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of a table: a figure, or what was derived from it."""

    #: Like ``both``, ``both / untracked`` or ``cpu - untracked``.
    key: str
    title: str
    unit: str
    is_derived: bool
    #: By contender; a contender that did not measure it is missing.
    spreads: dict[str, Spread]


def rows(figures, samples):
    """Return the rows of a comparison: each figure, followed by what is derived from it.

    Parameters:
      samples(dict): By contender a list of what it measured, one dictionary per round.
    """
    found = []
    for figure in figures:
        spreads = _spreads(figure.key, samples)
        found.append(Row(figure.key, figure.title, figure.unit, is_derived=False, spreads=spreads))
        for name in figure.ratios:
            spreads = _spreads(figure.key, samples, name, _divide)
            key, title = f"{figure.key} / {name}", f"divided by {name}"
            found.append(Row(key, title, "", is_derived=True, spreads=spreads))
        if figure.added_to:
            spreads = _spreads(figure.key, samples, figure.added_to, operator.sub)
            key, title = f"{figure.key} - {figure.added_to}", f"more than {figure.added_to}"
            found.append(Row(key, title, figure.unit, is_derived=True, spreads=spreads))
    return [row for row in found if row.spreads]


def _spreads(key, samples, baseline=None, derive=None):
    """Return by contender the spread of a figure, or of what ``derive`` makes of it and of the
    baseline's figure of the same round."""
    spreads = {}
    for contender, measured in samples.items():
        values = [one.get(key) for one in measured]
        if baseline is not None:
            # One that did not take part leaves nothing to derive.
            others = [] if contender == baseline else samples.get(baseline, [])
            pairs = [(value, other.get(key)) for value, other in zip(values, others)]
            values = [None if None in pair else derive(*pair) for pair in pairs]
        values = [value for value in values if value is not None]
        if values:
            spreads[contender] = Spread.of(values)
    return spreads


def _divide(value, baseline):
    return value / baseline if baseline else None


def number(value):
    """Return a number with three significant digits, or all that are before the point."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"
