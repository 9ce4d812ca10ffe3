"""The jobs that send and process messages."""

import gc
import time

from benchmarks.workload import samples, tables
from benchmarks.workload.load import LIMIT_SECONDS, Load, flush
from benchmarks.workload.memory import peak_bytes
from benchmarks.workload.tasks import work
from benchmarks.workload.usage import Usage


def send_then_process(*, messages, threads, milliseconds, warm_up, send_alone, statements):
    """Send all messages, then process them; return the time of both.

    Parameters:
      send_alone(bool): Whether to send them once more afterwards, in a process without workers.
    """
    load = Load(threads=threads, milliseconds=milliseconds, statements=statements)
    load.worker.start()
    load.warm_up(warm_up)
    load.pause()
    gc.collect()

    counted, started = statements.count, Usage.now()
    for _ in range(messages):
        load.send()
    sent = Usage.now()
    load.resume()
    load.finish()
    ended = Usage.now()
    total = ended.since(started)

    return {
        **_finish(load, counted),
        "enqueue_seconds": sent.since(started).seconds,
        "process_seconds": ended.since(sent).seconds,
        "cpu_seconds": total.cpu_seconds,
        "writer_seconds": total.writer_seconds,
        "switches": total.switches,
        **(_send_alone(load, messages) if send_alone else {}),
    }


def _send_alone(load, messages):
    """Send messages as a web process does: no worker runs.  Return the time of the calls of
    ``send``, their processor time, and that of the process until all transitions are written."""
    tables.empty()
    load.send()  # The writer starts again, and connects.
    flush()
    gc.collect()

    started = Usage.now()
    for _ in range(messages):
        load.send()
    sent = Usage.now()
    flush()
    written = Usage.now()

    tables.count_missing(messages + 1, status="enqueued")
    load.broker.flush_all()
    return {
        "send_seconds": sent.since(started).seconds,
        "send_thread_seconds": sent.since(started).thread_seconds,
        "send_cpu_seconds": written.since(started).cpu_seconds,
    }


def send_and_process(
    *, messages, threads, milliseconds, warm_up, rate, seconds, sample_seconds, statements
):
    """Send messages while the worker processes them; return the time of all, and the times of
    the samples."""
    load = Load(threads=threads, milliseconds=milliseconds, statements=statements)
    load.worker.start()
    load.warm_up(warm_up)
    gc.collect()

    counted, started = statements.count, time.perf_counter()
    load.send_paced(messages, rate=rate, seconds=seconds, sample_seconds=sample_seconds)
    load.finish()
    return {
        "seconds": time.perf_counter() - started,
        **_finish(load, counted),
        **samples.times(),
    }


def lone_tasks(*, tasks, threads, milliseconds, pause, statements):
    """Process one sample at a time, with a pause in seconds before each; return the times of the
    samples."""
    load = Load(threads=threads, milliseconds=milliseconds, statements=statements)
    load.worker.start()
    load.warm_up(tasks)
    counted = statements.count
    for _ in range(tasks):
        time.sleep(pause)
        load.send(sample_seconds=0)
        load.acks.wait(load.sent, LIMIT_SECONDS)
    load.finish()
    return {**_finish(load, counted), **samples.times()}


def send(*, messages, milliseconds):
    """Send messages to workers in other processes; return the time of the start."""
    started = time.time()
    for number in range(messages):
        work.send(milliseconds, for_state=samples.make_for_state(number, is_sample=False))
    flush()
    return {"started": started}


def _finish(load, counted):
    """Stop the worker, which is not measured, and return the counts."""
    statements = load.statements.count - counted
    load.worker.stop()
    return {
        "messages": load.sent,
        "statements": statements,
        "peak_bytes": peak_bytes(),
        "missing": tables.count_missing(load.sent),
    }
