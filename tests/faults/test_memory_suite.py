"""A project's own suite under pytest-django, on an in-memory SQLite database, with nothing
but what the quickstart says: app and middleware."""

import os
import subprocess
import sys
import time

from tests.support.processes import ROOT

#: How often its four tests run, one after the other.
ROUNDS = 40
SUITE_SECONDS = 300

SETTINGS = """
SECRET_KEY = "x"
USE_TZ = True
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django_dramatiq",
    "taskstate",
    "shop",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DRAMATIQ_BROKER = {
    "BROKER": "dramatiq.brokers.stub.StubBroker",
    "MIDDLEWARE": [
        "dramatiq.middleware.AgeLimit",
        "dramatiq.middleware.TimeLimit",
        "dramatiq.middleware.Callbacks",
        "dramatiq.middleware.Retries",
        "django_dramatiq.middleware.DbConnectionsMiddleware",
        "taskstate.middleware.StateMiddleware",
    ],
}
"""
MODELS = """
from django.db import models

class Note(models.Model):
    text = models.CharField(max_length=50)
"""
TASKS = """
import dramatiq
from shop.models import Note

@dramatiq.actor(max_retries=0)
def note(text, for_state=None):
    Note.objects.create(text=text)

@dramatiq.actor(max_retries=0)
def nothing(text, for_state=None):
    pass
"""
CONFTEST = """
import dramatiq, pytest

@pytest.fixture
def worker(transactional_db):
    broker = dramatiq.get_broker()
    broker.flush_all()
    worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=1)
    worker.start()
    yield worker
    worker.stop()

def pytest_collection_modifyitems(items):
    # One of each after the other: the writer begins again in each test.
    items.sort(key=lambda item: (item.callspec.params["number"], item.function.__name__))
"""
TESTS = """
import time
import dramatiq, pytest, taskstate
from shop.models import Note
from shop.tasks import note, nothing
from taskstate.models import Task

pytestmark = pytest.mark.parametrize("number", range({rounds}))

def test_a_worker(number, worker):
    message = note.send("a", for_state={{}})
    dramatiq.get_broker().join("default")
    worker.join()
    assert Note.objects.count() == 1
    assert Task.objects.get(pk=message.message_id).status == "done"

@pytest.mark.django_db
def test_b_view(number):
    nothing.send("b", for_state={{}})
    Note.objects.create(text="b")
    assert Task.objects.count() == 1
    time.sleep(number % 20 * 0.0002)

@pytest.mark.django_db(transaction=True)
def test_c_view_that_commits(number):
    Note.objects.create(text="c")
    nothing.send("c", for_state={{}})
    assert Note.objects.count() == 1

def test_d_no_database(number):
    nothing.send("d", for_state={{}})
    assert taskstate.flush()
"""


def test_a_suite_in_memory(tmp_path, report):
    """No test is lost, no error is logged, and no test waits for the database."""
    (tmp_path / "shop").mkdir()
    files = {
        "settings.py": SETTINGS,
        "shop/__init__.py": "",
        "shop/models.py": MODELS,
        "shop/tasks.py": TASKS,
        "conftest.py": CONFTEST,
        "test_shop.py": TESTS.format(rounds=ROUNDS),
        "pytest.ini": "[pytest]",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--ds", "settings"]
    started = time.monotonic()
    suite = subprocess.run(
        [*command, "-p", "no:randomly", "-p", "no:hypothesispytest"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=SUITE_SECONDS,
        check=False,
    )
    seconds = time.monotonic() - started
    report(f"{suite.stdout.splitlines()[-1]}; {seconds:.1f} s with its start and its end")

    assert suite.returncode == 0, suite.stdout
    assert f"{4 * ROUNDS} passed" in suite.stdout
    assert "could not be written" not in suite.stdout + suite.stderr
    assert "can't be written" not in suite.stdout + suite.stderr
