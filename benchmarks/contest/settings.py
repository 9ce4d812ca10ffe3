"""Settings of a contender's process; ``CONTEST`` in the environment is its terms, as JSON."""

import json
import os

import django

from benchmarks.project import services

TERMS = json.loads(os.environ["CONTEST"])


def _database():
    # Connections stay open, to the favour of those who write in worker threads.
    config = {**services.database(TERMS["database"]), "CONN_MAX_AGE": None}
    if config["ENGINE"].endswith("sqlite3") and django.VERSION >= (5, 1):
        # Otherwise a transaction that reads first can't write while another thread does.
        config["OPTIONS"] = {**config["OPTIONS"], "transaction_mode": "IMMEDIATE"}
    return config


SECRET_KEY = "contest"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    *TERMS["apps"],
    "benchmarks.contest",
]
DATABASES = {"default": _database()}
DRAMATIQ_BROKER = services.broker(
    TERMS["broker"],
    [
        # The first, so that it counts an acknowledgement after all others have seen it.
        "benchmarks.contest.counters.AckCounter",
        "dramatiq.middleware.AgeLimit",
        "dramatiq.middleware.TimeLimit",
        "dramatiq.middleware.Callbacks",
        "dramatiq.middleware.Retries",
        "django_dramatiq.middleware.DbConnectionsMiddleware",
        *TERMS["middleware"],
    ],
    {"namespace": TERMS["namespace"]} if TERMS["broker"].startswith("redis") else {},
)
TASKSTATE = TERMS["taskstate"]
