"""Reports the results of a suite: as tables on the terminal and in a text file, and as JSON."""

from __future__ import annotations

import dataclasses
import json

from rich.console import Console
from rich.table import Table

from benchmarks.runner import figures, rounds

#: The width of tables outside of a terminal, in characters.
WIDTH = 140


@dataclasses.dataclass(frozen=True)
class Report:
    """The results of one run of a suite.  All fields are plain data, to be stored as JSON."""

    suite: str
    title: str
    command: str
    date: str
    machine: dict[str, object]
    versions: dict[str, str]
    figures: list[figures.Figure]
    comparisons: list[rounds.Measured]

    def as_json(self):
        """Return the report as JSON, with all values of all rounds and their summaries."""
        content = dataclasses.asdict(self)
        for comparison, measured in zip(content["comparisons"], self.comparisons):
            comparison["summary"] = [
                dataclasses.asdict(row) for row in figures.rows(self.figures, measured.samples)
            ]
        return json.dumps(content, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text):
        """Return the report of a JSON text that ``as_json`` has made."""
        content = json.loads(text)
        content["figures"] = [
            figures.Figure(**{**figure, "ratios": tuple(figure["ratios"])})
            for figure in content["figures"]
        ]
        content["comparisons"] = [
            rounds.Measured(one["conditions"], one["samples"]) for one in content["comparisons"]
        ]
        return cls(**content)

    def footer(self):
        """Return the machine, the versions and the command, as lines."""
        machine = self.machine
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        cores = f"{machine['cores']} cores"
        where = ", ".join([machine["cpu"], cores, machine["memory"], machine["system"]])
        return [f"{where}; {self.date}", versions, f"$ {self.command}"]

    def show(self, console):
        """Print the tables."""
        for measured in self.comparisons:
            console.print(table(self, measured))
        for line in self.footer():
            console.print(line, style="dim", markup=False, highlight=False)

    def save(self, folder):
        """Write the JSON and the tables to files in a folder; return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        content = folder / f"{self.suite}.json"
        content.write_text(self.as_json() + "\n", encoding="utf-8")
        text = folder / f"{self.suite}.txt"
        with text.open("w", encoding="utf-8") as file:
            self.show(Console(file=file, width=WIDTH, color_system=None))
        return [content, text]


def table(report, measured):
    """Return the table of a comparison: a row per figure, a column per contender."""
    made = Table(
        title=f"{report.title}: {rounds.describe(measured.conditions)}",
        caption=f"median of {measured.rounds} (minimum to maximum)",
    )
    made.add_column("")
    made.add_column("unit")
    for contender in measured.samples:
        made.add_column(contender, justify="right")
    for row in figures.rows(report.figures, measured.samples):
        cells = [cell(row.spreads.get(contender)) for contender in measured.samples]
        title = f"  {row.title}" if row.is_derived else row.title
        made.add_row(title, row.unit, *cells)
    return made


def cell(spread):
    """Return a spread as two lines: the median, then the minimum and the maximum."""
    if spread is None:
        return "-"
    median, low, high = map(figures.format_number, (spread.median, spread.low, spread.high))
    return f"{median}\n({low} to {high})"
