"""Metrics on the page of Dramatiq's own Prometheus middleware, with real worker processes."""

import socket
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from taskstate.models import Task
from tests.support import servers
from tests.support.databases import use_database
from tests.support.processes import environment
from tests.support.workers import Rundramatiq, queue_of_its_own, send, wait_until

MESSAGES = 300
MIDDLEWARE = (
    "dramatiq.middleware.prometheus.Prometheus",
    "taskstate.middleware.StateMiddleware",
)


@pytest.fixture(params=servers.DATABASES[1:2])
def database(request, settings, django_db_setup, django_db_blocker):
    with use_database(request.param, settings, django_db_blocker) as alias:
        yield alias


@pytest.mark.parametrize("chain", [MIDDLEWARE, MIDDLEWARE[::-1]], ids=["last", "first"])
def test_both_processes_are_on_one_page(chain, database, tmp_path):
    """Each reports what it did, the sums are those of all messages, and nothing is pending in the
    end."""
    port = free_port()
    with queue_of_its_own("redis") as queue_env:
        env = environment(
            database,
            DEMO_MIDDLEWARE=",".join(chain),
            dramatiq_prom_host="127.0.0.1",
            dramatiq_prom_port=str(port),
            dramatiq_prom_db=str(tmp_path),
            dramatiq_prom_lock=str(tmp_path / "lock"),
            **queue_env,
        )
        with Rundramatiq(env, "--processes", "2", "--threads", "2") as workers:
            wait_until(lambda: len(workers.ready()) == 2)
            send(env, succeed=MESSAGES)
            wait_until(lambda: Task.objects.finished().count() == MESSAGES)
            # A process notes a flush after its commit.
            wait_until(lambda: transitions(scrape(port)) == MESSAGES * 2)
            found = scrape(port)
            pids = {str(pid) for pid in workers.ready()}

    assert total(found, "dramatiq_messages_total") == MESSAGES
    # Both states of a message may be one row's write, but for the first ones.
    assert MESSAGES <= total(found, "taskstate_rows_total", result="written") <= MESSAGES * 2
    assert total(found, "taskstate_failed_flushes_total") == 0
    assert total(found, "taskstate_flush_seconds_count") > 1
    assert total(found, "taskstate_pending_messages") == 0
    oldest = {labels["pid"]: value for name, labels, value in found if name == OLDEST}
    assert oldest == dict.fromkeys(pids, 0), "both processes were at work"


OLDEST = "taskstate_oldest_pending_timestamp_seconds"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def scrape(port):
    """Return the samples of the page: name, labels, value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        text = page.read().decode()
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def transitions(samples):
    return total(samples, "taskstate_transitions_total")


def total(samples, name, **labels):
    return sum(
        value
        for found, others, value in samples
        if found == name and labels.items() <= others.items()
    )
