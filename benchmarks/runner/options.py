"""The options of ``python -m benchmarks``, and the options of each suite made from them."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from benchmarks.contenders.registry import CONTENDERS
from benchmarks.errors import BenchmarkError
from benchmarks.runner import servers

#: The defaults of all suites.  A suite may override them.
DEFAULTS = {"threads": 8, "rounds": 5, "durations": (0,), "database_delays": (0,)}
TINY = {"threads": 2, "rounds": 2}


class UnsupportedError(BenchmarkError):
    """A suite supports nothing of what the options ask for."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What a suite measures.  A field that the suite does not use is empty."""

    databases: tuple[str, ...] = ()
    brokers: tuple[str, ...] = ()
    contenders: tuple[str, ...] = ()
    #: The number of messages of each comparison.
    messages: tuple[int, ...] = ()
    #: Durations of the actor, in milliseconds.
    durations: tuple[float, ...] = ()
    #: How much longer a round trip to the database takes, in milliseconds.
    database_delays: tuple[float, ...] = (0,)
    threads: int = 8
    rounds: int = 5
    listener: bool = False
    tiny: bool = False
    #: The number of rows in the table before the measurement.
    table: int = 0


def parse(argv, suites):
    """Return the arguments as an ``argparse`` namespace; omitted ones are None, empty or 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure contenders in rounds, and compare them.",
    )
    parser.add_argument("suites", nargs="*", help=f"{', '.join(suites)}; default: all")
    add_list(parser, "--broker", "brokers", servers.BROKERS)
    add_list(parser, "--database", "databases", servers.DATABASES)
    parser.add_argument(
        "--contenders",
        action="append",
        type=_names,
        metavar="NAME,...",
        help="the contenders, in the order of their turns; upsert@COMMIT is upsert at a commit",
    )
    parser.add_argument(
        "--messages",
        action="append",
        type=_list_of(_count),
        metavar="N,...",
        help="messages per round",
    )
    parser.add_argument(
        "--duration",
        action="append",
        type=_list_of(_milliseconds),
        dest="durations",
        metavar="MS,...",
        help="duration of the actor in milliseconds",
    )
    parser.add_argument(
        "--database-delay",
        action="append",
        type=_list_of(_milliseconds),
        dest="database_delays",
        metavar="MS,...",
        help="how much longer a round trip to the database takes, in milliseconds (suite whole)",
    )
    parser.add_argument("--threads", type=_count, metavar="N", help="threads per worker process")
    parser.add_argument("--rounds", type=_count, metavar="N", help="rounds per comparison")
    parser.add_argument(
        "--listener",
        action="store_true",
        help="connect a receiver to task_changed that does nothing",
    )
    parser.add_argument(
        "--table",
        type=_count,
        default=0,
        metavar="N",
        help="rows in the table before the measurement (suites flush and scale, PostgreSQL)",
    )
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="check in about a minute that everything works; the figures mean nothing",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for the results")
    given = parser.parse_args(argv)
    unknown = [name for name in given.suites if name not in suites]
    if unknown:
        parser.error(f"{', '.join(unknown)}: no such suite. There are {', '.join(suites)}.")
    return given


def add_list(parser, flag, dest, choices):
    """Add an option that takes a comma-separated list and may be repeated."""

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
    """Return the options of one suite: the arguments, or else the suite's defaults.

    Parameters:
      given(Namespace): What ``parse`` returned.
      name(str): The name of the suite.
      suite(module): Its module.

    Raises:
      UnsupportedError: If the suite supports none of the given databases, brokers or contenders, or
        if no server that it needs answers a smoke run.
      BenchmarkError: If a chosen server does not answer.
    """
    values = {**DEFAULTS, **suite.DEFAULTS}
    if given.tiny:
        values.update({**TINY, **suite.TINY})
    for key in ("databases", "brokers"):
        values[key] = _servers(given, key, name, suite, values.get(key, ()))
    values["contenders"] = _contenders(given, name, suite, values["contenders"])
    for key in ("messages", "durations", "database_delays"):
        values[key] = _joined(getattr(given, key)) or tuple(values.get(key, ()))
    for key in ("threads", "rounds"):
        values[key] = getattr(given, key) or values[key]
    return Options(**values, listener=given.listener, tiny=given.tiny, table=given.table)


def check_contenders(given, modules):
    """Raise ``BenchmarkError`` for a contender that none of the suites has.

    Parameters:
      modules(dict): The modules of the suites to run, by name.
    """
    known = dict.fromkeys(one for suite in modules.values() for one in suite.CHOICES["contenders"])
    unknown = [
        name
        for name in _joined(given.contenders)
        if not any(_has_contender(suite, name) for suite in modules.values())
    ]
    if unknown:
        raise BenchmarkError(
            f"There is no contender {', '.join(unknown)} in {', '.join(modules)}; choose from "
            f"{', '.join(known)}."
        )


def _has_contender(suite, name):
    """Return whether a suite has a contender, which may be one of an earlier commit."""
    base, _, commit = name.partition("@")
    if base not in suite.CHOICES["contenders"]:
        return False
    return not commit or (suite.CHOICES.get("commits", False) and CONTENDERS[base].is_ours)


def _joined(lists):
    """Return the items of all lists of a repeated option, without duplicates."""
    return tuple(dict.fromkeys(item for items in lists or () for item in items))


def _servers(given, key, name, suite, default):
    """Return the databases or brokers of a suite, all of which answer.

    A smoke run uses every one that answers.
    """
    possible = suite.CHOICES.get(key, ())
    requested = _joined(getattr(given, key))
    if not possible:
        return ()
    chosen = tuple(server for server in requested if server in possible)
    if requested and not chosen:
        raise UnsupportedError(f"{name} runs on {' and '.join(possible)} alone.")
    if given.tiny and not requested:
        wanted = suite.TINY.get(key, possible)
        chosen = tuple(server for server in wanted if servers.answers(server))
        if not chosen:
            raise UnsupportedError(
                f"{name} needs {' or '.join(possible)}, but no such server answers."
            )
    chosen = chosen or tuple(default)
    for server in chosen:
        servers.require(server)
    return chosen


def _contenders(given, name, suite, default):
    requested = _joined(given.contenders)
    chosen = tuple(one for one in requested if _has_contender(suite, one))
    if requested and not chosen:
        possible = ", ".join(suite.CHOICES["contenders"])
        raise UnsupportedError(
            f"{name} has no contender {' or '.join(requested)}; it has {possible}."
        )
    return chosen or tuple(default)
