"""``make bench``: runs suites, prints their tables, and writes their results and plots."""

import datetime
import sys

import django
from django.conf import settings
from rich.console import Console

from benchmarks import suites
from benchmarks.contenders import commits
from benchmarks.errors import BenchmarkError
from benchmarks.paths import RESULTS, TINY_RESULTS
from benchmarks.runner import machine, options, plots, rounds
from benchmarks.runner.progress import progress
from benchmarks.runner.report import WIDTH, Report
from benchmarks.runner.session import Session

console = Console()
if not console.is_terminal:
    console.width = WIDTH


def main(argv):
    """Run the requested suites; return the exit status."""
    if not settings.configured:
        # Django's database connections need settings; they create and drop databases.
        settings.configure(USE_TZ=True)
        django.setup()
    try:
        # Results name commits by their ids, since a branch or HEAD~1 is another commit tomorrow.
        argv = [commits.pin(argument) for argument in argv]
        given = options.parse(argv, suites.NAMES)
        plans = plan(given)
        for name, suite, chosen in plans:
            report = run(name, suite, chosen, machine.command(argv))
            report.show(console)
            folder = given.output or (TINY_RESULTS if given.tiny else RESULTS)
            write(report, suite, folder)
    except BenchmarkError as error:
        console.print(f"Error: {error}", style="red", markup=False, highlight=False)
        return 1
    return 0


def plan(given):
    """Return the name, the module and the options of each suite to run.

    A suite that supports nothing of what was requested is left out, with a message.

    Raises:
      BenchmarkError: If no suite is left.
    """
    modules = {name: suites.load(name) for name in given.suites or suites.NAMES}
    options.check_contenders(given, modules)
    found, reasons = [], []
    for name, suite in modules.items():
        try:
            found.append((name, suite, options.for_suite(given, name, suite)))
        except options.UnsupportedError as reason:
            reasons.append(str(reason))
    if not found:
        raise BenchmarkError(" ".join(reasons))
    for reason in reasons:
        console.print(f"Left out: {reason}", markup=False, highlight=False)
    return found


def run(name, suite, chosen, command):
    """Run a suite; return its report."""
    return Report(
        suite=name,
        title=suite.TITLE,
        command=command,
        date=f"{datetime.datetime.now(tz=datetime.timezone.utc):%Y-%m-%d}",
        machine=machine.machine(),
        versions=machine.versions((*chosen.databases, *chosen.brokers)),
        figures=list(suite.FIGURES),
        comparisons=measure(name, suite, chosen),
    )


def measure(name, suite, chosen):
    """Measure all comparisons of a suite; return their results."""
    with Session(listener=chosen.listener) as session:
        # Not every contender runs on every database.
        comparisons = [one for one in suite.comparisons(chosen, session) if one.measures]
        if not comparisons:
            raise BenchmarkError(
                f"{name}: {', '.join(chosen.contenders)} does not run on "
                f"{', '.join(chosen.databases)}. Choose others with --contenders or --database."
            )
        turns = sum(len(comparison.measures) for comparison in comparisons) * chosen.rounds
        measured = []
        with progress(console, suite.TITLE, turns) as show:
            for comparison in comparisons:
                conditions = rounds.describe(comparison.conditions)

                def on_turn(number, contender, conditions=conditions):
                    show(conditions, f"round {number} of {chosen.rounds}, {contender}")

                measured.append(rounds.measure(comparison, chosen.rounds, on_turn))
    return measured


def write(report, suite, folder):
    """Write the report and its plots, and print the names of the files."""
    files = report.save(folder)
    if plots.can_draw():
        files += plots.draw(report, suite.PLOTS, folder)
    else:
        console.print(
            "There are no plots, because matplotlib is not installed. make bench installs it.",
            markup=False,
        )
    names = ", ".join(path.name for path in files)
    console.print(f"Written to {folder}: {names}", markup=False, highlight=False)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        console.print("Interrupted.")
        sys.exit(130)
