"""Hooks: what each costs the thread that sends or works, and what waits for the writer."""

from functools import partial

from benchmarks import plots
from benchmarks.figures import Figure
from benchmarks.rounds import Comparison

TITLE = "Hooks"
#: Those of a message that is sent and run, in the order in which Dramatiq calls them.
HOOKS = (
    "before_enqueue",
    "after_enqueue",
    "before_process_message",
    "after_process_message",
    "before_ack",
)
FIGURES = (
    Figure("mean", "a hook call, mean of the five", "µs"),
    *(Figure(name, name, "µs") for name in HOOKS),
    Figure("progress", "set_progress()", "µs"),
    Figure("encode", "for comparison: Message.encode()", "µs"),
    Figure("pending", "a message that is enqueued, while it waits to be written", "bytes"),
    Figure("merged", "one that is done, with all its transitions", "bytes"),
)
PLOTS = (plots.Bars("calls", "A hook call", ("mean", *HOOKS)),)
CHOICES = {"contenders": ("tracked", "ignored")}
DEFAULTS = {"contenders": ("tracked", "ignored"), "messages": (20_000,)}
TINY = {"messages": (500,)}

#: Whose settings it runs with; the writer's thread is not started.
HOST = "upsert"


def comparisons(options, arena):
    """Yield one per number of messages: those that are tracked beside those that aren't."""
    for messages in options.messages:
        measures = {name: partial(run, arena, name, messages) for name in options.contenders}
        yield Comparison({"messages": messages}, measures)


def run(arena, name, messages):
    """Measure one kind of message once."""
    arena.prepare(HOST, "sqlite")
    return arena.run(
        HOST, "hooks", database="sqlite", messages=messages, is_tracked=name == "tracked"
    )
