"""The load of one round: messages are sent and worked off in this process, and timed."""

import gc
import resource
import sys
import time
from pathlib import Path

import dramatiq
from django.conf import settings

from benchmarks.contest import samples
from benchmarks.contest.counters import AckCounter
from benchmarks.contest.tables import Tables
from benchmarks.contest.tasks import work

#: How long all messages of a round may take.
LIMIT_SECONDS = 600
#: How many milliseconds a worker thread waits for a message before it looks whether it is paused.
WORKER_TIMEOUT = 20
#: When messages are worked off as they are sent, so many may wait.
MAX_BACKLOG = 1000
BACKLOG_PAUSE_SECONDS = 0.001


class Load:
    """Sends messages, and has them worked off.

    Parameters:
      threads(int): Of the worker.
      milliseconds(float): How long the actor takes.
      statements(StatementCounter): Of this process.
    """

    def __init__(self, *, threads, milliseconds, statements):
        self.milliseconds = milliseconds
        self.statements = statements
        self.broker = dramatiq.get_broker()
        self.broker.flush_all()
        self.acks = next(m for m in self.broker.middleware if isinstance(m, AckCounter))
        self.sent = 0
        self._sampled_at = float("-inf")
        self.worker = dramatiq.Worker(
            self.broker, worker_threads=threads, worker_timeout=WORKER_TIMEOUT
        )

    def send(self, *, sample_seconds=None):
        """Send one message; it is a sample if the last one was sent so many seconds ago."""
        now = time.perf_counter()
        is_sample = sample_seconds is not None and now - self._sampled_at >= sample_seconds
        if is_sample:
            self._sampled_at = now
        state = samples.for_state(self.sent, is_sample=is_sample)
        samples.note(state, "enqueued")
        work.send(self.milliseconds, for_state=state)
        self.sent += 1

    def send_paced(self, messages, *, rate, seconds, sample_seconds):
        """Send ``messages``, or what ``seconds`` allow, at ``rate`` per second, or as fast as
        they are worked off."""
        started = time.perf_counter()
        for number in range(messages):
            elapsed = time.perf_counter() - started
            if elapsed >= seconds:
                break
            if rate:
                time.sleep(max(0, number / rate - elapsed))
            while not rate and self.sent - self.acks.count > MAX_BACKLOG:
                time.sleep(BACKLOG_PAUSE_SECONDS)
            self.send(sample_seconds=sample_seconds)

    def pause(self):
        """Let the worker's threads rest.  Its consumers, which fetch a few messages ahead, don't:
        they need seconds to be paused and resumed."""
        for thread in self.worker.workers:
            thread.pause()
        for thread in self.worker.workers:
            thread.paused_event.wait(LIMIT_SECONDS)

    def resume(self):
        """Let the worker's threads go on."""
        for thread in self.worker.workers:
            thread.resume()

    def finish(self):
        """Wait until all that was sent is acknowledged, and all states are written."""
        if not self.acks.wait(self.sent, LIMIT_SECONDS):
            sys.exit(
                f"Only {self.acks.count:,} of {self.sent:,} messages were worked off within "
                f"{LIMIT_SECONDS} seconds. Take fewer, with --messages."
            )
        flush()

    def warm_up(self, messages):
        """Work off some messages that don't count, if any, and forget them."""
        if not messages:
            return
        for _ in range(messages):
            self.send()
        self.finish()
        Tables().empty()
        self.acks.count = self.sent = 0


def flush():
    """Wait until what this project tracks is written; others have written it already."""
    if settings.TERMS["is_ours"]:
        import taskstate

        if not taskstate.flush(LIMIT_SECONDS):
            sys.exit(f"The states were not written within {LIMIT_SECONDS} seconds.")


def one_after_the_other(statements, *, messages, threads, milliseconds, warm_up):
    """Send all messages, then work them off; return what each took."""
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
        **_outcome(load, counted),
        "enqueue_seconds": sent - started,
        "process_seconds": ended - sent,
        "cpu_seconds": cpu_ended - cpu,
    }


def together(
    statements, *, messages, threads, milliseconds, warm_up, rate, seconds, sample_seconds
):
    """Send messages while they are worked off; return what that took."""
    load = Load(threads=threads, milliseconds=milliseconds, statements=statements)
    load.worker.start()
    load.warm_up(warm_up)
    gc.collect()

    counted, started = statements.count, time.perf_counter()
    load.send_paced(messages, rate=rate, seconds=seconds, sample_seconds=sample_seconds)
    load.finish()
    return {
        "seconds": time.perf_counter() - started,
        **_outcome(load, counted),
        **samples.times(),
    }


def lone(statements, *, tasks, threads, milliseconds, pause):
    """Work off samples one at a time, and be quiet for ``pause`` seconds before each."""
    load = Load(threads=threads, milliseconds=milliseconds, statements=statements)
    load.worker.start()
    load.warm_up(tasks)
    counted = statements.count
    for _ in range(tasks):
        time.sleep(pause)
        load.send(sample_seconds=0)
        load.acks.wait(load.sent, LIMIT_SECONDS)
    load.finish()
    return {**_outcome(load, counted), **samples.times()}


def send(statements, *, messages, milliseconds):
    """Send messages to workers elsewhere."""
    started = time.time()
    for number in range(messages):
        work.send(milliseconds, for_state=samples.for_state(number, is_sample=False))
    flush()
    return {"started": started}


def peak_bytes():
    """Return the most memory that this process has had."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:  # Not Linux. There the next line would also know the parent's, before exec.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = next(line for line in lines if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024


def _outcome(load, counted):
    """Return what was done, and stop the worker, which nobody times."""
    statements = load.statements.count - counted
    load.worker.stop()
    return {
        "messages": load.sent,
        "statements": statements,
        "peak_bytes": peak_bytes(),
        "missing": Tables().missing(load.sent),
    }
