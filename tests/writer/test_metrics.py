"""Metrics: what a writer did, in the registry of a client that the project has loaded."""

import functools
import os
import sys
import types

import prometheus_client
import pytest

from taskstate.transitions.status import Status
from taskstate.writer import lifecycle, metrics
from tests.support.bench import Outage
from tests.support.factories import make_id, make_transition
from tests.support.limits import LIMIT_SECONDS
from tests.support.processes import end_script, environment, run_script, start_script
from tests.support.workers import SETUP


@pytest.fixture
def registry(monkeypatch):
    """A registry in place of the default one, with metrics that begin at nothing."""
    registry = prometheus_client.CollectorRegistry()
    client = types.SimpleNamespace(
        **{
            name: functools.partial(getattr(prometheus_client, name), registry=registry)
            for name in ("Counter", "Gauge", "Histogram")
        }
    )
    monkeypatch.setattr(metrics, "_state", metrics._State())
    metrics._state.metrics = metrics.Metrics(client)
    return registry


@pytest.fixture
def measured(bench, registry):
    """A writer with metrics, which is registered for its process."""
    bench.writer._cycle._observe = metrics.Meter().observe
    lifecycle._state.writers.add(bench.writer)
    yield bench
    lifecycle._state.writers.discard(bench.writer)


def test_metrics_count_what_a_writer_did(measured, registry):
    """Each metric, with a rejected row, a failed flush, and dropped messages."""
    value = registry.get_sample_value
    measured.store.poison = {make_id(3)}
    measured.push(*range(5))
    measured.push(1, status=Status.DONE)
    measured.writer._cycle.step()
    assert value("taskstate_transitions_total") == 6
    assert value("taskstate_rows_total", {"result": "written"}) == 4
    assert value("taskstate_rows_total", {"result": "unchanged"}) == 0
    assert value("taskstate_rows_total", {"result": "rejected"}) == 1
    flushes = value("taskstate_flush_seconds_count")
    assert flushes == measured.writer.stats().flushes > 0
    assert value("taskstate_pending_messages") == 0

    measured.store.error = Outage()
    measured.push(*range(10, 150))
    measured.writer._cycle.step()
    assert value("taskstate_failed_flushes_total") == 1
    assert value("taskstate_dropped_total") == 40
    assert value("taskstate_pending_messages") == 100
    assert value("taskstate_flush_seconds_count") == flushes


def test_the_age_of_the_oldest_pending_task_is_known_while_the_writer_is_stuck(
    measured, registry, monkeypatch
):
    """It is a time, both when it is read here and in the files for other processes."""
    monkeypatch.setattr("time.time", lambda: 5000.0)
    value = registry.get_sample_value
    seen = []

    def look():
        stats = measured.writer.stats()
        held = metrics._state.metrics._oldest._value.get()
        seen.append((stats.oldest_pending_seconds, value(OLDEST), held))

    measured.store.on_write = look
    for number, age in [(1, 30.0), (2, 20.0)]:
        measured.writer.push(make_transition(message_id=make_id(number), happened_at=1000.0 - age))
    assert value(OLDEST) == 4970.0
    measured.writer._cycle.step()

    assert seen == [(30.0, 4970.0, 4970.0)]
    assert value(OLDEST) == 0
    assert metrics._state.metrics._oldest._value.get() == 0


OLDEST = "taskstate_oldest_pending_timestamp_seconds"


def test_rows_are_written_if_the_metrics_fail(measured, monkeypatch, caplog):
    """The failure is logged once."""
    tries = []

    def fail(before, now):
        tries.append(now)
        raise OSError("No space left on device")

    monkeypatch.setattr(metrics._state.metrics, "count", fail)
    for number in range(3):
        measured.push(number)
        measured.writer._cycle.step()

    assert len(measured.store.committed) == 3
    assert len(tries) == 1
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("taskstate.writer.metrics", "ERROR")
    assert "PROMETHEUS_MULTIPROC_DIR" in record.message


def test_no_thread_waits_while_another_makes_the_metrics(monkeypatch):
    """A fork at that moment leaves the child with a lock that is never released."""
    monkeypatch.setattr(metrics, "_state", metrics._State())
    assert metrics._state.making.acquire(blocking=False)

    metrics.Meter().observe(pytest.fail, 1.0)

    assert metrics._state.metrics is None
    assert not metrics._state.is_broken


def assert_logs(code, env, text):
    """Run a script to its end; it ends well, and logs ``text`` once, with a traceback."""
    script = start_script(code, env)
    _, errors = end_script(script)
    assert script.returncode == 0, errors
    assert errors.count(text) == 1, errors


def test_rows_are_written_if_the_name_of_a_metric_is_taken(sqlite):
    """This takes a process of its own, because of the default registry."""
    code = (
        SETUP
        + f"""
import prometheus_client
prometheus_client.Counter('taskstate_dropped_total', 'Of another package.')
for _ in range(2):
    tasks.succeed.send(for_state={{}})
    assert taskstate.flush({LIMIT_SECONDS})
stats = taskstate.stats()
assert (stats.rows_written, stats.failed_flushes) == (2, 0), stats
from taskstate.writer import metrics
assert metrics._state.is_broken
"""
    )
    text = "metrics of taskstate are switched off in this process"
    assert_logs(code, environment(sqlite), text)


def test_taskstate_does_not_import_prometheus_client(sqlite):
    """A process that doesn't use the client does not load it, even if it is installed."""
    run_script(
        SETUP
        + f"""
tasks.succeed.send(for_state={{}})
assert taskstate.flush({LIMIT_SECONDS})
assert taskstate.stats().rows_written == 1
assert 'prometheus_client' not in sys.modules
""",
        environment(sqlite),
    )


SCRAPE = (
    SETUP
    + f"""
import prometheus_client

def work():
    tasks.succeed.send(for_state={{}})
    assert taskstate.flush({LIMIT_SECONDS})

def scrape(registry=prometheus_client.REGISTRY):
    return {{
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in registry.collect() for sample in family.samples
        if family.name.startswith('taskstate')
    }}
"""
)


def test_metrics_are_in_the_default_registry(sqlite):
    """A web process may serve it at a page of its own."""
    run_script(
        SCRAPE
        + """
assert scrape() == {}
work()
found = scrape()
assert found['taskstate_transitions_total',] == 1
assert found['taskstate_rows_total', 'written'] == 1
assert found['taskstate_flush_seconds_count',] == 1
assert found['taskstate_flush_seconds_sum',] > 0
assert found['taskstate_pending_messages',] == 0
assert found['taskstate_oldest_pending_timestamp_seconds',] == 0
""",
        environment(sqlite),
    )


FORK = (
    SCRAPE
    + """
work()
pid = os.fork()
if pid == 0:
    work()
    work()
    os._exit(0)
_, status = os.waitpid(pid, 0)
assert status == 0

from prometheus_client import multiprocess
registry = prometheus_client.CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
found = scrape(registry)
assert found['taskstate_transitions_total',] == 3, found
assert found['taskstate_rows_total', 'written'] == 3
assert found['taskstate_flush_seconds_count',] == 3
assert found['taskstate_pending_messages',] == 0
for one in (os.getpid(), pid):
    assert found['taskstate_oldest_pending_timestamp_seconds', str(one)] == 0
"""
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="it is about fork")
def test_processes_that_share_files_are_summed(sqlite, tmp_path):
    """With PROMETHEUS_MULTIPROC_DIR, also after a fork.  Each reports its own pending tasks."""
    run_script(FORK, environment(sqlite, PROMETHEUS_MULTIPROC_DIR=str(tmp_path)))


def test_rows_are_written_if_the_directory_of_the_metrics_is_missing(sqlite, tmp_path):
    """The log states what to check."""
    code = SCRAPE + "work()\nassert taskstate.stats().rows_written == 1\n"
    env = environment(sqlite, PROMETHEUS_MULTIPROC_DIR=str(tmp_path / "missing"))
    assert_logs(code, env, "PROMETHEUS_MULTIPROC_DIR exists")


def test_without_the_client_metrics_cost_one_lookup(monkeypatch):
    """The statistics are not even read."""
    monkeypatch.delitem(sys.modules, "prometheus_client")
    metrics.Meter().observe(pytest.fail, 1.0)
