"""Settings of the demo's project.

The environment variables ``DATABASE`` and ``BROKER`` are URLs.
"""

import json
import os
from pathlib import Path

from benchmarks import paths, services

#: The folder for logs and for the SQLite database.
VAR = Path(os.environ.get("DEMO_VAR", paths.VAR))
VAR.mkdir(exist_ok=True)

BROKER = os.environ.get("BROKER") or "stub://"
DATABASE = os.environ.get("DATABASE") or f"sqlite:///{VAR / 'demo.sqlite3'}"

SECRET_KEY = "demo"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django_dramatiq",
    "taskstate",
    "benchmarks.demo.project",
]
DATABASES = {
    "default": {
        **services.database(DATABASE),
        **json.loads(os.environ.get("DEMO_DATABASE", "{}")),
    },
    # Here the demo writes each transition on its own, to count the statements.
    "scratch": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
}
DRAMATIQ_BROKER = services.broker(
    BROKER,
    [
        "dramatiq.middleware.AgeLimit",
        "dramatiq.middleware.TimeLimit",
        "dramatiq.middleware.Callbacks",
        "dramatiq.middleware.CurrentMessage",
        "dramatiq.middleware.Retries",
        *os.environ.get("DEMO_MIDDLEWARE", "taskstate.middleware.StateMiddleware").split(","),
    ],
    json.loads(os.environ.get("DEMO_BROKER_OPTIONS", "{}")),
)
TASKSTATE = json.loads(os.environ.get("DEMO_TASKSTATE", "{}"))
