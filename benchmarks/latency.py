"""How long it takes from a transition to its row in another connection, and to its signal."""

import statistics
from functools import partial

from benchmarks import plots
from benchmarks.contest.samples import STATES
from benchmarks.figures import Figure
from benchmarks.rounds import Comparison

TITLE = "Latency"
FIGURES = tuple(
    Figure(f"{state}_{kind}_{part}", f"{state}, to its {kind}: {words}", "ms")
    for state in STATES
    for kind in ("row", "signal")
    for part, words in (("median", "median"), ("p99", "99%"))
)
PLOTS = tuple(
    plots.Bars(
        kind,
        f"From a transition to its {words}",
        tuple(f"{state}_{kind}_{part}" for state in STATES for part in ("median", "p99")),
    )
    for kind, words in (("row", "row, in another connection"), ("signal", "signal"))
)
CHOICES = {
    "databases": ("postgres",),
    "brokers": ("stub", "redis"),
    # Only they can tell a sample from the other messages by its row.
    "contenders": ("upsert", "orm", "plain-orm"),
}
DEFAULTS = {
    "databases": ("postgres",),
    "brokers": ("stub",),
    "contenders": ("upsert", "orm"),
}
TINY = {"brokers": ("stub",), "contenders": ("upsert",), "rounds": 1}

#: Of a lone task, in milliseconds.
LONE_MILLISECONDS = 50
#: Three flushes per task, and one more is allowed every half second.
LONE_PAUSE_SECONDS = 1.6
LONE_TASKS = 20
TINY_LONE_TASKS = 2

LOAD_SECONDS = 5
TINY_LOAD_SECONDS = 0.5
#: At full load, one message in so much time is looked at.
SAMPLE_SECONDS = 0.05
#: More than a process works off in that time.
MOST_MESSAGES = 1_000_000
WARM_UP = 100


def comparisons(options, arena):
    """Yield two per broker: lone tasks, and full load."""
    for broker in options.brokers:
        for load, arguments in (("lone tasks", _lone(options)), ("full", _full(options))):
            measures = {
                name: partial(run, arena, name, {"broker": broker, **arguments})
                for name in options.contenders
            }
            yield Comparison({"broker": broker, "database": "postgres", "load": load}, measures)


def _lone(options):
    return {
        "job": "lone",
        "tasks": TINY_LONE_TASKS if options.tiny else LONE_TASKS,
        "threads": options.threads,
        "milliseconds": LONE_MILLISECONDS,
        "pause": LONE_PAUSE_SECONDS,
    }


def _full(options):
    return {
        "job": "together",
        "messages": MOST_MESSAGES,
        "threads": options.threads,
        "milliseconds": options.durations[0],
        "warm_up": WARM_UP,
        "rate": None,
        "seconds": TINY_LOAD_SECONDS if options.tiny else LOAD_SECONDS,
        "sample_seconds": SAMPLE_SECONDS,
    }


def run(arena, name, arguments):
    """Measure one contender once, while another process looks into its table."""
    arena.prepare(name, "postgres")
    arena.run(name, "empty", database="postgres")
    watcher = arena.start(name, "watch", database="postgres")
    try:
        watcher.stdout.readline()
        done = arena.run(name, database="postgres", samples=True, **arguments)
        seen = arena.result(watcher)["seen"]
    finally:
        watcher.kill()
        watcher.wait()
    found = {}
    for state in STATES:
        for kind, times in (("row", seen), ("signal", done["told"])):
            delays = [
                1000 * (times[sample][state] - moments[state])
                for sample, moments in done["happened"].items()
            ]
            found[f"{state}_{kind}_median"] = statistics.median(delays)
            found[f"{state}_{kind}_p99"] = percentile(delays, 99)
    return found


def percentile(values, percent):
    """Return the smallest of ``values`` that at least ``percent`` of them don't exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
