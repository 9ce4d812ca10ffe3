"""Hooks: the time of each hook call, and the memory of a pending message."""

from functools import partial

from benchmarks.runner import plots
from benchmarks.runner.figures import Figure
from benchmarks.runner.rounds import Comparison
from benchmarks.workload.hooks import HOOKS

TITLE = "Hooks"
FIGURES = (
    Figure("mean", "a hook call, mean of the five", "µs"),
    *(Figure(name, name, "µs") for name in HOOKS),
    Figure("progress", "set_progress()", "µs"),
    Figure("encode", "for comparison: Message.encode()", "µs"),
    Figure("pending", "a pending message with one transition", "bytes"),
    Figure("merged", "a pending message with all transitions", "bytes"),
)
PLOTS = (plots.Bars("calls", "A hook call", ("mean", *HOOKS)),)
CHOICES = {"contenders": ("tracked", "ignored")}
DEFAULTS = {"contenders": ("tracked", "ignored"), "messages": (20_000,)}
TINY = {"messages": (500,)}

#: All measurements use this contender's settings.
CONTENDER = "upsert"


def comparisons(options, session):
    """Yield one per number of messages: tracked and untracked messages."""
    for messages in options.messages:
        measures = {name: partial(run, session, name, messages) for name in options.contenders}
        yield Comparison({"messages": messages}, measures)


def run(session, name, messages):
    """Measure tracked or untracked messages once."""
    session.prepare(CONTENDER, "sqlite")
    return session.run(
        CONTENDER, "hooks", database="sqlite", messages=messages, is_tracked=name == "tracked"
    )
