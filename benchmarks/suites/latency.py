"""Latency: the time from a transition until another connection sees its row, and until its signal
is sent."""

import statistics
from functools import partial

from benchmarks.runner import plots
from benchmarks.runner.figures import Figure
from benchmarks.runner.rounds import Comparison
from benchmarks.workload.samples import STATES

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
    # Only the rows of these distinguish samples from other messages.
    "contenders": ("upsert", "orm", "plain-orm"),
    "commits": True,
}
DEFAULTS = {
    "databases": ("postgres",),
    "brokers": ("stub",),
    "contenders": ("upsert", "orm"),
}
TINY = {"brokers": ("stub",), "contenders": ("upsert",), "rounds": 1}

#: The duration of the actor of a lone task.
LONE_MILLISECONDS = 50
#: A task takes three flushes, and one more is allowed every half second.
LONE_PAUSE_SECONDS = 1.6
LONE_TASKS = 20
TINY_LONE_TASKS = 2

LOAD_SECONDS = 5
TINY_LOAD_SECONDS = 0.5
#: The time between two samples at full load.
SAMPLE_SECONDS = 0.05
#: More than a process can process in that time.
MAX_MESSAGES = 1_000_000
WARM_UP = 100


def comparisons(options, session):
    """Yield two per broker: lone tasks, and full load."""
    for broker in options.brokers:
        for load, arguments in (("lone tasks", _lone(options)), ("full", _full(options))):
            measures = {
                name: partial(run, session, name, {"broker": broker, **arguments})
                for name in options.contenders
            }
            yield Comparison({"broker": broker, "database": "postgres", "load": load}, measures)


def _lone(options):
    return {
        "job": "lone_tasks",
        "tasks": TINY_LONE_TASKS if options.tiny else LONE_TASKS,
        "threads": options.threads,
        "milliseconds": LONE_MILLISECONDS,
        "pause": LONE_PAUSE_SECONDS,
    }


def _full(options):
    return {
        "job": "send_and_process",
        "messages": MAX_MESSAGES,
        "threads": options.threads,
        "milliseconds": options.durations[0],
        "warm_up": WARM_UP,
        "rate": None,
        "seconds": TINY_LOAD_SECONDS if options.tiny else LOAD_SECONDS,
        "sample_seconds": SAMPLE_SECONDS,
    }


def run(session, name, arguments):
    """Measure one contender once, while another process polls its table."""
    session.prepare(name, "postgres")
    session.run(name, "empty_tables", database="postgres")
    poller = session.start(name, "poll", database="postgres")
    try:
        poller.stdout.readline()
        done = session.run(name, database="postgres", samples=True, **arguments)
        seen = session.result(poller)["seen"]
    finally:
        poller.kill()
        poller.wait()
    found = {}
    for state in STATES:
        for kind, times in (("row", seen), ("signal", done["signaled_at"])):
            delays = [
                1000 * (times[sample][state] - moments[state])
                for sample, moments in done["happened_at"].items()
            ]
            found[f"{state}_{kind}_median"] = statistics.median(delays)
            found[f"{state}_{kind}_p99"] = percentile(delays, 99)
    return found


def percentile(values, percent):
    """Return the smallest value that at least ``percent`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
