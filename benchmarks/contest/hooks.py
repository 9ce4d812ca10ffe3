"""The hooks of one round, called by hand, with no thread that writes what they push."""

import gc
import time
import tracemalloc

import dramatiq
from dramatiq.broker import MessageProxy

import taskstate
from benchmarks.hooks import HOOKS

#: Messages are made and processed in portions, so that they are as warm as they are in a worker.
PORTION = 100
#: How many wait while their memory is measured.
PENDING = 20_000


def hooks(_, *, messages, is_tracked):
    """Return microseconds per call by hook, and bytes per message that waits."""
    from taskstate.middleware import StateMiddleware

    broker = dramatiq.get_broker()
    state = next(m for m in broker.middleware if isinstance(m, StateMiddleware))
    state._writer._start = lambda: True
    found = time_calls(state, broker, messages, is_tracked=is_tracked)
    if is_tracked:
        found["pending"] = bytes_pending(state, broker, hooks=HOOKS[:2])
        found["merged"] = bytes_pending(state, broker, hooks=HOOKS)
    return found


def time_calls(state, broker, messages, *, is_tracked):
    """Return microseconds per call by hook, their mean, and those of ``Message.encode``."""
    seconds = dict.fromkeys((*HOOKS, "progress", "encode", "loop"), 0.0)
    gc.collect()
    gc.disable()
    for start in range(0, messages, PORTION):
        portion = [make(number, is_tracked=is_tracked) for number in range(start, start + PORTION)]
        proxies = [MessageProxy(message) for message in portion]
        for name in HOOKS:
            hook = getattr(state, name)
            targets = portion if "enqueue" in name else proxies
            arguments = (None,) if "enqueue" in name else ()
            started = time.perf_counter()
            for message in targets:
                hook(broker, message, *arguments)
            seconds[name] += time.perf_counter() - started
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
        forget(state)
    gc.enable()
    loop = seconds.pop("loop")
    calls = -(-messages // PORTION) * PORTION
    found = {name: (spent - loop) / calls * 1e6 for name, spent in seconds.items()}
    found["mean"] = sum(found[name] for name in HOOKS) / len(HOOKS)
    return found


def time_progress():
    """Return the seconds of one call of ``set_progress`` per message of a portion, inside of the
    run that began last: a run tells of its progress more than once."""
    started = time.perf_counter()
    for number in range(PORTION):
        taskstate.set_progress(number, PORTION, "Rows")
    return time.perf_counter() - started


def bytes_pending(state, broker, hooks):
    """Return the memory of a message that waits after these hooks, coalesced."""
    forget(state)
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(PENDING):
        message = make(number, is_tracked=True)
        proxy = MessageProxy(message)
        for name in hooks:
            if "enqueue" in name:
                getattr(state, name)(broker, message, None)
            else:
                getattr(state, name)(broker, proxy)
    del message, proxy
    state._writer._buffer.absorb()
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    forget(state)
    return (after - before) / PENDING


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


def forget(state):
    """Empty the buffer."""
    buffer = state._writer._buffer
    buffer._raw.clear()
    buffer._entries.clear()
