"""The jobs that send and process messages."""

import gc
import time

from benchmarks.workload import samples, tables
from benchmarks.workload.load import LIMIT_SECONDS, Load, flush
from benchmarks.workload.memory import peak_bytes
from benchmarks.workload.tasks import work


def send_then_process(*, messages, threads, milliseconds, warm_up, statements):
    """Send all messages, then process them; return the time of both."""
    load = Load(threads=threads, milliseconds=milliseconds, statements=statements)
    load.worker.start()
    load.warm_up(warm_up)
    load.pause()
    gc.collect()

    counted, cpu, started = statements.count, time.process_time(), time.perf_counter()
    for _ in range(messages):
        load.send()
    sent = time.perf_counter()
    load.resume()
    load.finish()
    ended, cpu_ended = time.perf_counter(), time.process_time()

    return {
        **_finish(load, counted),
        "enqueue_seconds": sent - started,
        "process_seconds": ended - sent,
        "cpu_seconds": cpu_ended - cpu,
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
