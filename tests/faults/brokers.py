"""Brokers for the project of ``works``: a queue of a drill's own on each, removed in the end."""

import contextlib
import json
import subprocess
import sys
import uuid

import pytest
from django.db import connections

from tests.support import servers
from tests.support.needs import need
from tests.support.workers import queue_of_its_own

INSTALL_SECONDS = 300
REDIS = "dramatiq.brokers.redis.RedisBroker"
RABBITMQ = "dramatiq.brokers.rabbitmq.RabbitmqBroker"
#: Limited by itself to an older Dramatiq, so installed where only its own processes see it.
PG = ("dramatiq-pg", "dramatiq<2", "psycopg2-binary")


def missing(text):
    """Skip the drill, or fail it where nothing may be missing."""
    return pytest.fail(text) if servers.required() else pytest.skip(text)


def install(folder, *requirements):
    """Install packages into a folder; return its path, for ``PYTHONPATH``."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, *requirements],
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    if done.returncode:
        missing(f"{', '.join(requirements)} could not be installed: {done.stderr[-500:]}")
    return str(folder)


def _settings(broker, **options):
    return {
        "WORKS_BROKER": broker,
        "WORKS_OPTIONS": json.dumps(options),
        "WORKS_REDIS": servers.url("redis"),
    }


def _queue():
    return f"taskstate-tests-{uuid.uuid4().hex[:8]}"


@contextlib.contextmanager
def stub(folder):
    """Dramatiq's, in the process that sends."""
    yield _settings("dramatiq.brokers.stub.StubBroker")


@contextlib.contextmanager
def redis(folder, **options):
    with queue_of_its_own("redis") as env:
        options = {**json.loads(env["DEMO_BROKER_OPTIONS"]), **options}
        yield {**env, **_settings(REDIS, url=servers.url("redis"), **options)}


@contextlib.contextmanager
def rabbitmq(folder):
    with queue_of_its_own("rabbitmq") as env:
        url = servers.url("rabbitmq")
        yield {**env, **_settings(RABBITMQ, url=url, confirm_delivery=True)}


@contextlib.contextmanager
def pg(folder):
    """dramatiq-pg, which encodes a message before ``before_enqueue``."""
    need("postgres")
    path = install(folder, *PG)
    schema = f"drill_{uuid.uuid4().hex[:8]}"
    make = (
        "import sys; from dramatiq_pg.schema import generate_init_sql;"
        "sys.stdout.write(generate_init_sql(sys.argv[1]))"
    )
    sql = subprocess.run(
        [sys.executable, "-c", make, schema],
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    url = f"{servers.database_url('postgres')}?maxconn=32&minconn=1"
    options = {"url": url, "schema": schema, "prefix": "", "results": False}
    with connections["postgres"].cursor() as cursor:
        cursor.execute(sql)
        try:
            settings = _settings("dramatiq_pg.PostgresBroker", **options)
            yield {**settings, "DEMO_QUEUE": _queue(), "WORKS_PATH": path}
        finally:
            cursor.execute(f"DROP SCHEMA {schema} CASCADE")


@contextlib.contextmanager
def sqs(folder):
    """dramatiq_sqs, which does as well, against a server of moto's in this process."""
    pytest.importorskip("dramatiq_sqs")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield {
            **_settings(
                "dramatiq_sqs.SQSBroker",
                endpoint_url=f"http://{host}:{port}",
                region_name="us-east-1",
                aws_access_key_id="drill",
                aws_secret_access_key="drill",
            ),
            "DEMO_QUEUE": _queue(),
        }
    finally:
        server.stop()


@contextlib.contextmanager
def eager(folder):
    """dramatiq_eager_broker, which runs what is sent in place, and calls no hook before an ack."""
    pytest.importorskip("dramatiq_eager_broker")
    yield _settings("dramatiq_eager_broker.EagerBroker", fail_fast=False)


@contextlib.contextmanager
def eager_fail_fast(folder):
    """The same, as it is by default: the sender gets what an actor raises."""
    pytest.importorskip("dramatiq_eager_broker")
    yield _settings("dramatiq_eager_broker.EagerBroker")


#: Without workers of their own.
IN_PLACE = (stub, eager, eager_fail_fast)
EAGER = (eager, eager_fail_fast)
