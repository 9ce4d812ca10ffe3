"""Which servers the tests can use: at a URL from the environment, or at the standard address.

A server that doesn't answer is missing: its tests are skipped and the summary names it, or,
with ``TASKSTATE_TEST_SERVERS=required``, the run fails.
"""

import functools
import os
import sys
import tempfile
from pathlib import Path

from benchmarks import services

REDIS_DATABASE = 15
DATABASES = ("default", "postgres", "mariadb")

#: Separates what runs at the same time: the environments of the matrix, or Python's versions; and
#: the processes of one run (pytest-xdist).
_PYTHON = f"py{sys.version_info.major}{sys.version_info.minor}"
_PARTS = (os.environ.get("TASKSTATE_TEST_TAG", _PYTHON), os.environ.get("PYTEST_XDIST_WORKER"))
TAG = "_".join(filter(None, _PARTS)).replace("-", "_")

#: What django.test puts the tests' tables into.
TEST_DATABASE = f"test_taskstate_{TAG}"

#: All that the tests write to disk.
FOLDER = Path(tempfile.gettempdir()) / f"taskstate-tests-{os.getuid()}-{TAG}"


def url(server):
    """Return the address of a server."""
    return services.address(server, redis_database=REDIS_DATABASE)


@functools.lru_cache(maxsize=None)
def answers(server):
    """Return whether something listens at the server's address; SQLite always does."""
    return server == "default" or services.listens(url(server))


def missing():
    """Return the servers that don't answer."""
    return [server for server in services.STANDARD if not answers(server)]


def required():
    """Return whether a missing server fails the run."""
    return os.environ.get("TASKSTATE_TEST_SERVERS") == "required"


def database_url(alias):
    """Return the URL of the database that holds the tests' tables, for another process."""
    if alias == "default":
        return f"sqlite:///{FOLDER / 'tests.sqlite3'}"
    return f"{url(alias).rpartition('/')[0]}/{TEST_DATABASE}"


def databases():
    """Return ``DATABASES``: an SQLite file, and each database server that answers."""
    FOLDER.mkdir(exist_ok=True)
    found = {"default": services.database(database_url("default"))}
    found["default"]["TEST"] = {"NAME": found["default"]["NAME"]}
    for server in DATABASES[1:]:
        if answers(server):
            found[server] = services.database(url(server))
            found[server]["TEST"] = {"NAME": TEST_DATABASE}
    if "postgres" in found:
        # No test is about what the machine's end would leave: its commits need not wait for a disk.
        found["postgres"].setdefault("OPTIONS", {})["options"] = "-c synchronous_commit=off"
    return found
