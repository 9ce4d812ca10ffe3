"""The hooks job: it calls the middleware's hooks without a writer thread, and times them."""

import gc
import time
import tracemalloc

import dramatiq
from dramatiq.broker import MessageProxy

import taskstate
from taskstate.middleware import StateMiddleware

#: The hooks of a message that is sent and processed, in the order in which Dramatiq calls them.
HOOKS = (
    "before_enqueue",
    "after_enqueue",
    "before_process_message",
    "after_process_message",
    "before_ack",
)
#: Messages are made and processed in portions of this size, so that as much of them is in the
#: processor's caches as in a worker.
PORTION = 100
#: How many messages are pending while their memory is measured.
PENDING = 20_000


def hooks(*, messages, is_tracked):
    """Return the microseconds per call of each hook, and the bytes per pending message."""
    broker = dramatiq.get_broker()
    state = next(m for m in broker.middleware if isinstance(m, StateMiddleware))
    # As in a busy process, whose writer is awake.
    state._writer.thread.is_idle = False
    figures = time_calls(state, broker, messages, is_tracked=is_tracked)
    if is_tracked:
        figures["pending"] = bytes_pending(state, broker, hooks=HOOKS[:2])
        figures["merged"] = bytes_pending(state, broker, hooks=HOOKS)
    return figures


def time_calls(state, broker, messages, *, is_tracked):
    """Return the microseconds per call of each hook, of ``set_progress`` and of ``Message.encode``,
    and the mean of the hooks."""
    seconds = dict.fromkeys((*HOOKS, "progress", "encode", "loop"), 0.0)
    gc.collect()
    gc.disable()
    for start in range(0, messages, PORTION):
        portion = [make(number, is_tracked=is_tracked) for number in range(start, start + PORTION)]
        proxies = []
        for name in HOOKS:
            hook = getattr(state, name)
            targets = portion if "enqueue" in name else proxies
            arguments = (None,) if "enqueue" in name else ()
            started = time.perf_counter()
            for message in targets:
                hook(broker, message, *arguments)
            seconds[name] += time.perf_counter() - started
            if name == "before_enqueue":
                proxies = [receive(message) for message in portion]
            if name == "before_process_message":
                seconds["progress"] += time_progress()
        started = time.perf_counter()
        for message in portion:
            message.encode()
        seconds["encode"] += time.perf_counter() - started
        started = time.perf_counter()
        for _ in portion:
            pass
        seconds["loop"] += time.perf_counter() - started
        empty_buffer(state)
    gc.enable()
    loop = seconds.pop("loop")
    calls = -(-messages // PORTION) * PORTION
    figures = {name: (spent - loop) / calls * 1e6 for name, spent in seconds.items()}
    figures["mean"] = sum(figures[name] for name in HOOKS) / len(HOOKS)
    return figures


def time_progress():
    """Return the seconds that ``set_progress`` takes, called as often as a portion has messages.

    All calls belong to the run that has started last: a run reports its progress more than once.
    """
    started = time.perf_counter()
    for number in range(PORTION):
        taskstate.set_progress(number, PORTION, "Rows")
    return time.perf_counter() - started


def bytes_pending(state, broker, hooks):
    """Return the bytes per pending message after these hooks, with its transitions coalesced."""
    empty_buffer(state)
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(PENDING):
        message = make(number, is_tracked=True)
        received = None
        for name in hooks:
            if "enqueue" in name:
                getattr(state, name)(broker, message, None)
            else:
                getattr(state, name)(broker, received)
            if name == "before_enqueue":
                received = receive(message)
    del message, received
    state._writer._buffer.coalesce()
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    empty_buffer(state)
    return (after - before) / PENDING


def receive(message):
    """Return a message as a worker receives it: the broker encodes it after ``before_enqueue``."""
    return MessageProxy(dramatiq.Message.decode(message.encode()))


def make(number, *, is_tracked):
    """Return a message, tracked or not."""
    for_state = {
        "user_pk": number % 50 + 1,
        "description": f"Export of report {number}",
        "model_name": "Report",
        "app_name": "shop",
    }
    return dramatiq.Message(
        queue_name="default",
        actor_name="work",
        args=(number,),
        kwargs={"for_state": for_state} if is_tracked else {"state": for_state},
        options={},
    )


def empty_buffer(state):
    """Empty the buffer."""
    buffer = state._writer._buffer
    buffer.queue._items.clear()
    buffer.queue._units.clear()
    buffer._pending.clear()
