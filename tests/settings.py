"""The Django project of the tests: an SQLite file, and each database server that answers."""

from tests import servers

SECRET_KEY = "tests"
USE_TZ = True
# Not UTC, so that a time in the wrong zone shows.
TIME_ZONE = "Asia/Kolkata"
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
