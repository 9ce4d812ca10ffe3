"""The options of ``python -m benchmarks``: what was asked for, and what each suite makes of it."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from benchmarks import servers
from benchmarks.contenders import ROOT
from benchmarks.errors import BenchmarkError

RESULTS = ROOT / "benchmarks" / "results"
#: A smoke run must not replace results.
TINY_RESULTS = ROOT / "var" / "bench-tiny"

#: Where a suite says nothing else.
DEFAULTS = {"threads": 8, "rounds": 5, "durations": (0,)}
TINY = {"threads": 2, "rounds": 2}


class Unsuitable(BenchmarkError):
    """What was asked for is nothing that this suite can do."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What a suite is to measure.  What it does not vary is empty."""

    databases: tuple[str, ...] = ()
    brokers: tuple[str, ...] = ()
    contenders: tuple[str, ...] = ()
    #: How many, for each comparison.
    messages: tuple[int, ...] = ()
    #: Of the actor, in milliseconds.
    durations: tuple[float, ...] = ()
    threads: int = 8
    rounds: int = 5
    listener: bool = False
    tiny: bool = False
    #: How many rows a table has before anything is measured.
    table: int = 0


def parse(argv, suites):
    """Return the arguments as ``argparse`` gives them: None, or empty, for what was not given."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures contenders in turn, round by round, and compares them.",
    )
    parser.add_argument("suites", nargs="*", help=f"which: {', '.join(suites)}; all by default")
    add_list(parser, "--broker", "brokers", servers.BROKERS)
    add_list(parser, "--database", "databases", servers.DATABASES)
    parser.add_argument(
        "--contenders", action="append", type=_names, metavar="NAME,...", help="which, and in turn"
    )
    parser.add_argument(
        "--messages", action="append", type=_list_of(_count), metavar="N,...", help="per round"
    )
    parser.add_argument(
        "--duration",
        action="append",
        type=_list_of(_milliseconds),
        dest="durations",
        metavar="MS,...",
        help="how long the actor takes, in milliseconds",
    )
    parser.add_argument("--threads", type=_count, metavar="N", help="of a worker")
    parser.add_argument("--rounds", type=_count, metavar="N", help="of all contenders in turn")
    parser.add_argument(
        "--listener", action="store_true", help="connect a task_changed receiver that does nothing"
    )
    parser.add_argument(
        "--table", type=_count, default=0, metavar="N", help="rows in the table before (flush)"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="show in a minute that everything works"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="where the results go")
    given = parser.parse_args(argv)
    unknown = [name for name in given.suites if name not in suites]
    if unknown:
        parser.error(f"{', '.join(unknown)}: no such suite. There are {', '.join(suites)}.")
    return given


def add_list(parser, flag, dest, choices):
    """Add an option that takes a list, separated by commas, and may be repeated."""

    def names(text):
        wrong = [name for name in _names(text) if name not in choices]
        if wrong:
            raise argparse.ArgumentTypeError(
                f"there is no {', '.join(wrong)}; choose from {', '.join(choices)}"
            )
        return _names(text)

    parser.add_argument(
        flag, action="append", type=names, dest=dest, metavar="NAME,...", help=", ".join(choices)
    )


def _names(text):
    return [name for name in text.split(",") if name]


def _list_of(convert):
    return lambda text: [convert(part) for part in _names(text)]


def _count(text):
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return number


def _milliseconds(text):
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number <= 60_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of milliseconds up to 60,000")
    return int(number) if number.is_integer() else number


def for_suite(given, name, suite):
    """Return the options of one suite: what was given, else its own defaults.

    Raises:
      Unsuitable: If nothing is left of what was given, or no server that it needs answers.
      BenchmarkError: If a server that was asked for does not answer.
    """
    values = {**DEFAULTS, **suite.DEFAULTS}
    if given.tiny:
        values.update({**TINY, **suite.TINY})
    for key in ("databases", "brokers"):
        values[key] = _places(given, key, name, suite, values.get(key, ()))
    values["contenders"] = _contenders(given, name, suite, values["contenders"])
    for key in ("messages", "durations"):
        values[key] = _joined(getattr(given, key)) or tuple(values.get(key, ()))
    for key in ("threads", "rounds"):
        values[key] = getattr(given, key) or values[key]
    return Options(**values, listener=given.listener, tiny=given.tiny, table=given.table)


def check_contenders(given, modules):
    """Raise ``BenchmarkError`` if a contender was asked for that no suite knows.

    Parameters:
      modules(dict): The suites that were asked for, by name.
    """
    known = dict.fromkeys(one for suite in modules.values() for one in suite.CHOICES["contenders"])
    unknown = [name for name in _joined(given.contenders) if name not in known]
    if unknown:
        raise BenchmarkError(
            f"There is no contender {', '.join(unknown)} in {', '.join(modules)}; choose from "
            f"{', '.join(known)}."
        )


def _joined(lists):
    """Return the lists of a repeated option as one, without repetitions."""
    return tuple(dict.fromkeys(item for items in lists or () for item in items))


def _places(given, key, name, suite, default):
    """Return the databases or brokers, which must answer; a smoke run takes all that do."""
    possible = suite.CHOICES.get(key, ())
    asked = _joined(getattr(given, key))
    if not possible:
        return ()
    chosen = tuple(place for place in asked if place in possible)
    if asked and not chosen:
        raise Unsuitable(f"{name} runs on {' and '.join(possible)} alone.")
    if given.tiny and not asked:
        wanted = suite.TINY.get(key, possible)
        chosen = tuple(place for place in wanted if servers.answers(place))
        if not chosen:
            raise Unsuitable(f"{name} needs {' or '.join(possible)}, and none answers.")
    chosen = chosen or tuple(default)
    for place in chosen:
        servers.require(place)
    return chosen


def _contenders(given, name, suite, default):
    asked = _joined(given.contenders)
    chosen = tuple(one for one in asked if one in suite.CHOICES["contenders"])
    if asked and not chosen:
        possible = ", ".join(suite.CHOICES["contenders"])
        raise Unsuitable(f"{name} has no contender {' or '.join(asked)}; it has {possible}.")
    return chosen or tuple(default)
