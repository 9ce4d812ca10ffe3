"""The Django project of the tests: one SQLite file, and each server that answers.

URLs come from the environment (``DATABASE_POSTGRES_URL`` and so on); see ``tests/servers.py``.
"""

import os

from tests import servers

SECRET_KEY = "tests"  # noqa: S105
USE_TZ = True
TIME_ZONE = "Europe/Berlin"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django_dramatiq",
    "taskstate",
]
DATABASES = servers.databases()
DRAMATIQ_BROKER = {
    "BROKER": "dramatiq.brokers.stub.StubBroker",
    "OPTIONS": {},
    "MIDDLEWARE": ["taskstate.middleware.StateMiddleware"],
}
DRAMATIQ_AUTODISCOVER_TASKS = False
DRAMATIQ_TASKS_DATABASE = os.environ.get("TASKS_DATABASE", "default")
