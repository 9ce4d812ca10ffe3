"""Settings of the demo project; ``DATABASE`` and ``BROKER`` in the environment are URLs."""

import json
import os
from pathlib import Path

from benchmarks.project import services

VAR = Path(os.environ.get("DEMO_VAR", Path(__file__).resolve().parents[2] / "var"))
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
    "benchmarks.project",
]
DATABASES = {
    "default": {
        **services.database(DATABASE),
        **json.loads(os.environ.get("DEMO_DATABASE", "{}")),
    },
    # Where the demo counts what writing each transition on its own takes.
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
