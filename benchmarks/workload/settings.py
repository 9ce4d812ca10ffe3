"""Settings of a contender's process.

The environment variable ``BENCHMARK`` holds what differs between contenders and runs, as JSON.
"""

import json
import os

import django

from benchmarks import services

BENCHMARK = json.loads(os.environ["BENCHMARK"])


def _database():
    # Persistent connections favor contenders that write in worker threads.
    config = {**services.database(BENCHMARK["database"]), "CONN_MAX_AGE": None}
    if config["ENGINE"].endswith("sqlite3") and django.VERSION >= (5, 1):
        # Otherwise a transaction that reads first fails if another thread writes before it does.
        config["OPTIONS"] = {**config["OPTIONS"], "transaction_mode": "IMMEDIATE"}
    return config


SECRET_KEY = "benchmark"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    *BENCHMARK["apps"],
    "benchmarks.workload",
]
DATABASES = {"default": _database()}
DRAMATIQ_BROKER = services.broker(
    BENCHMARK["broker"],
    [
        # First, so that it counts a message after the hooks of all other middleware have run.
        "benchmarks.workload.acks.AckCounter",
        "dramatiq.middleware.AgeLimit",
        "dramatiq.middleware.TimeLimit",
        "dramatiq.middleware.Callbacks",
        "dramatiq.middleware.Retries",
        "django_dramatiq.middleware.DbConnectionsMiddleware",
        *BENCHMARK["middleware"],
    ],
    {"namespace": BENCHMARK["namespace"]} if BENCHMARK["broker"].startswith("redis") else {},
)
TASKSTATE = BENCHMARK["taskstate"]
