"""Which servers the tests can use: at a URL from the environment, or at the standard address.

=========  =========================  =========================================
server     variable                   standard address
=========  =========================  =========================================
postgres   ``TASKSTATE_POSTGRES_URL``  ``postgres://postgres@127.0.0.1:5432/postgres``
mariadb    ``TASKSTATE_MARIADB_URL``   ``mysql://root@127.0.0.1:3306/mysql``
redis      ``TASKSTATE_REDIS_URL``     ``redis://127.0.0.1:6379/15``
rabbitmq   ``TASKSTATE_RABBITMQ_URL``  ``amqp://guest:guest@127.0.0.1:5672/``
=========  =========================  =========================================

A server that doesn't answer is missing: its tests are skipped and the summary names it, or,
with ``TASKSTATE_TEST_SERVERS=required``, the run fails.
"""

import functools
import os
import socket
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

STANDARD = {
    "postgres": "postgres://postgres@127.0.0.1:5432/postgres",
    "mariadb": "mysql://root@127.0.0.1:3306/mysql",
    "redis": "redis://127.0.0.1:6379/15",
    "rabbitmq": "amqp://guest:guest@127.0.0.1:5672/",
}

DATABASE_SERVERS = ("postgres", "mariadb")
BROKER_SERVERS = ("redis", "rabbitmq")

#: All that the tests write to disk.
FOLDER = Path(tempfile.gettempdir()) / f"taskstate-tests-{os.getuid()}"


def url(server):
    return os.environ.get(f"TASKSTATE_{server.upper()}_URL", STANDARD[server])


@functools.lru_cache(maxsize=None)
def answers(server):
    """Whether something listens at the server's address."""
    parts = urlsplit(url(server))
    try:
        with socket.create_connection((parts.hostname, parts.port), timeout=2):
            return True
    except OSError:
        return False


def missing():
    return [server for server in STANDARD if not answers(server)]


def required():
    return os.environ.get("TASKSTATE_TEST_SERVERS") == "required"


def databases():
    """The value of ``DATABASES``: an SQLite file, and each database server that answers."""
    FOLDER.mkdir(exist_ok=True)
    file = str(FOLDER / "tests.sqlite3")
    found = {"default": sqlite(file, test_file=file)}
    for server in DATABASE_SERVERS:
        if answers(server):
            found[server] = database(url(server))
            found[server]["TEST"] = {"NAME": "test_taskstate"}
    return found


def sqlite(file, test_file=None):
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": file,
        # Several processes write at once; on a machine with two busy cores they wait longer
        # for each other than the five seconds that are the default.
        "OPTIONS": {"timeout": 30},
        "TEST": {"NAME": test_file},
    }


def database(address):
    """The settings for a database URL."""
    import dj_database_url  # Here, because it is an extra.

    if address.startswith("mysql"):
        use_pymysql()
    return dict(dj_database_url.parse(address))


def use_pymysql():
    """Let PyMySQL stand in for mysqlclient, which can't be installed without a compiler."""
    try:
        import MySQLdb  # noqa: F401
    except ImportError:
        import pymysql

        # The version of mysqlclient that Django asks for; PyMySQL answers its interface.
        pymysql.version_info = (2, 2, 7, "final", 0)
        pymysql.install_as_MySQLdb()
