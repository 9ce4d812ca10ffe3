"""Draws the plots of a report as PNG files.

matplotlib is optional, so only the functions that draw import it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import textwrap

from benchmarks.contenders.registry import CONTENDERS
from benchmarks.runner import figures, rounds

#: Okabe and Ito's colors, with gray in place of yellow, which color-blind people can distinguish,
#: and markers for print.
COLORS = ("#000000", "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999999")
MARKERS = "osD^vPX*"

PANEL_INCHES = (5.5, 4.2)
MAX_COLUMNS = 2
FOOTER_INCHES = 0.9
#: The number of footer characters per inch.
FOOTER_CHARACTERS = 15
DOTS_PER_INCH = 110
#: The longest line of a label below bars.
LABEL_CHARACTERS = 14
#: With more bars than this, the numbers above them are rotated so that they don't overlap.
MAX_HORIZONTAL_LABELS = 8
#: The format of numbers on an axis.
AXIS_FORMAT = "{x:,.10g}"


def can_draw():
    """Return whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(report, plots, folder):
    """Draw all plots that the report has values for; return the paths of the files."""
    made = []
    for plot in plots:
        path = folder / f"{report.suite}-{plot.name}.png"
        if plot.draw(report, path):
            made.append(path)
    return made


@dataclasses.dataclass(frozen=True)
class Bars:
    """A bar chart: a panel per comparison, a group of bars per figure, a bar per contender."""

    name: str
    title: str
    #: The keys of the figures, which have the same unit.
    figures: tuple[str, ...]
    #: Whether the y axis is logarithmic.
    log: bool = False

    def draw(self, report, path):
        """Draw the plot; return False if the report has no values for it."""
        found = []
        for measured in report.comparisons:
            rows = _rows(report, measured)
            rows = [rows[key] for key in self.figures if key in rows]
            if rows:
                found.append((measured, rows))
        if not found:
            return False
        figure, axes = _canvas(len(found))
        for panel, (measured, rows) in zip(axes, found):
            self._draw_panel(panel, measured, rows)
        _finish(figure, self.title, report, path)
        return True

    def _draw_panel(self, panel, measured, rows):
        names = list(measured.samples)
        width = 0.8 / len(names)
        for place, name in enumerate(names):
            offset = (place - (len(names) - 1) / 2) * width
            found = [(group, row.spreads.get(name)) for group, row in enumerate(rows)]
            found = [(group + offset, spread) for group, spread in found if spread]
            spreads = [spread for _, spread in found]
            bars = panel.bar(
                [x for x, _ in found],
                [spread.median for spread in spreads],
                yerr=_errors(spreads),
                color=_color(names, name),
                width=0.9 * width,
                label=name,
                capsize=3,
                ecolor="#777777",
            )
            texts = [figures.format_number(spread.median) for spread in spreads]
            rotation = 90 if len(names) * len(rows) > MAX_HORIZONTAL_LABELS else 0
            panel.bar_label(bars, texts, size=7, padding=3, rotation=rotation)
        if self.log and any(spread.median for row in rows for spread in row.spreads.values()):
            panel.set_yscale("log")
        panel.margins(y=0.2)
        panel.yaxis.set_major_formatter(AXIS_FORMAT)
        titles = ["\n".join(textwrap.wrap(row.title, LABEL_CHARACTERS)) for row in rows]
        panel.set_xticks(range(len(rows)), titles, size=7)
        panel.set_ylabel(rows[0].unit)
        panel.set_title("\n".join(textwrap.wrap(rounds.describe(measured.conditions), 60)), size=9)
        panel.grid(axis="y", alpha=0.3)
        panel.set_axisbelow(True)
        # The legend is below the axes, where it hides no bar.
        panel.legend(
            fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False
        )


@dataclasses.dataclass(frozen=True)
class Lines:
    """A line chart: a figure as a function of a condition or of another figure, with a line per
    contender."""

    name: str
    title: str
    #: The key of the figure on the y axis.
    figure: str
    #: The x axis: a condition whose values are numbers, or the key of a figure.
    x: str
    #: Only comparisons with this condition are drawn; by default those with the condition ``x``.
    within: str = ""
    #: Whether the y axis is logarithmic; the x axis always is.
    log: bool = False
    #: The condition with a panel for each of its values, if any.
    panels: str = ""

    def draw(self, report, path):
        """Draw the plot; return False if the report has no values for it."""
        found = [
            (measured, _rows(report, measured))
            for measured in report.comparisons
            if (self.within or self.x) in measured.conditions
        ]
        found = [(measured, rows) for measured, rows in found if self.figure in rows]
        if not found:
            return False
        groups = {}
        for one in found:
            groups.setdefault(one[0].conditions.get(self.panels), []).append(one)
        figure, axes = _canvas(len(groups))
        for panel, group in zip(axes, groups.values()):
            self._draw_panel(panel, group)
        _finish(figure, self.title, report, path)
        return True

    def _draw_panel(self, panel, found):
        names = list(found[0][0].samples)
        for name in names:
            self._draw_line(panel, found, names, name)
        self._set_axes(panel, found)
        measured, rows = found[0]
        panel.set_xlabel(self.x if self.x in measured.conditions else rows[self.x].unit)
        panel.set_ylabel(f"{rows[self.figure].title}, {rows[self.figure].unit}")
        in_title = {"broker", self.panels}
        fixed = {key: value for key, value in measured.conditions.items() if key in in_title}
        panel.set_title(rounds.describe(fixed), size=9)
        panel.grid(alpha=0.3)
        panel.legend()

    def _set_axes(self, panel, found):
        from matplotlib.ticker import NullFormatter, NullLocator

        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(AXIS_FORMAT)
        spreads = [spread for _, rows in found for spread in rows[self.figure].spreads.values()]
        values = [end for spread in spreads for end in (spread.low, spread.high)]
        sizes = [measured.conditions.get(self.x) for measured, _ in found]
        if None not in sizes:
            panel.set_xticks(sizes)
            panel.xaxis.set_minor_locator(NullLocator())
        if self.log:
            panel.set_yscale("log")
            # A short axis has hardly any power of ten, so it needs labels between them.
            is_narrow = max(values) < 10 * min(values)
            panel.yaxis.set_minor_formatter(AXIS_FORMAT if is_narrow else NullFormatter())
        else:
            panel.set_ylim(0, 1.1 * max(values) or 1)
        panel.yaxis.set_major_formatter(AXIS_FORMAT)

    def _draw_line(self, panel, found, names, name):
        points = [
            (measured.conditions.get(self.x) or rows[self.x].spreads[name].median, rows)
            for measured, rows in found
            if name in rows[self.figure].spreads
        ]
        points.sort(key=lambda point: point[0])
        spreads = [rows[self.figure].spreads[name] for _, rows in points]
        panel.errorbar(
            [x for x, _ in points],
            [spread.median for spread in spreads],
            yerr=_errors(spreads),
            label=name,
            color=_color(names, name),
            marker=MARKERS[names.index(name) % len(MARKERS)],
            capsize=4,
        )


def _rows(report, measured):
    """Return the rows of a comparison, by key."""
    return {row.key: row for row in figures.rows(report.figures, measured.samples)}


def _errors(spreads):
    """Return the distances of the minima and the maxima from the medians, for error bars."""
    below = [spread.median - spread.low for spread in spreads]
    above = [spread.high - spread.median for spread in spreads]
    return [below, above]


def _color(names, name):
    """Return the color of a contender.  Those of the registry have the same in all plots."""
    known = list(CONTENDERS)
    if name not in CONTENDERS:
        # One that no other contender of the plot has.
        free = [one for one in known if one not in names] or known
        others = [one for one in names if one not in CONTENDERS]
        name = free[others.index(name) % len(free)]
    return COLORS[known.index(name) % len(COLORS)]


def _canvas(panels):
    """Return a matplotlib figure, and the axes of this number of panels."""
    import matplotlib as mpl

    # This backend needs no display.
    mpl.use("Agg")
    from matplotlib import pyplot

    columns = min(panels, MAX_COLUMNS)
    lines = math.ceil(panels / columns)
    width = PANEL_INCHES[0] * max(columns, 1.5)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(width, PANEL_INCHES[1] * lines + FOOTER_INCHES), squeeze=False
    )
    axes = list(axes.flat)
    for unused in axes[panels:]:
        unused.remove()
    return figure, axes[:panels]


def _finish(figure, title, report, path):
    """Add the title and the footer, and write the file."""
    from matplotlib import pyplot

    width, height = figure.get_size_inches()
    characters = round(width * FOOTER_CHARACTERS)
    number = report.comparisons[0].rounds
    lines = [f"Median of {number}; error bars show the minimum and the maximum."]
    for line in report.footer():
        lines += textwrap.wrap(line, characters)
    figure.suptitle(title)
    figure.text(0.01, 0.01, "\n".join(lines), size=7, color="#555555", va="bottom")
    figure.tight_layout(rect=(0, FOOTER_INCHES / height, 1, 1))
    figure.savefig(path, dpi=DOTS_PER_INCH)
    pyplot.close(figure)
