"""URLs of databases and brokers, and the Django settings made from them."""

import os
import socket
import sys
from urllib.parse import urlsplit

import dj_database_url

DATABASES = ("sqlite:///", "postgres://", "postgresql://", "mysql://")
BROKERS = {
    "stub": "dramatiq.brokers.stub.StubBroker",
    "redis": "dramatiq.brokers.redis.RedisBroker",
    "amqp": "dramatiq.brokers.rabbitmq.RabbitmqBroker",
}

#: The standard URL of each server.  ``address`` adds a database number to that of Redis.
STANDARD = {
    "postgres": "postgres://postgres@127.0.0.1:5432/postgres",
    "mariadb": "mysql://root@127.0.0.1:3306/mysql",
    "redis": "redis://127.0.0.1:6379",
    "rabbitmq": "amqp://guest:guest@127.0.0.1:5672/",
}
CONNECT_SECONDS = 2
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def address(server, *, redis_database):
    """Return the URL of a server: the value of its environment variable, such as
    ``TASKSTATE_POSTGRES_URL``, or the standard URL."""
    standard = STANDARD[server]
    if server == "redis":
        standard = f"{standard}/{redis_database}"
    return os.environ.get(f"TASKSTATE_{server.upper()}_URL", standard)


def listens(url):
    """Return whether a server accepts connections at a URL."""
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname, parts.port), timeout=CONNECT_SECONDS):
            return True
    except OSError:
        return False


def redacted(url):
    """Return a URL without its user name and password."""
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def database(url):
    """Return the ``DATABASES`` entry for a URL of SQLite, PostgreSQL, MySQL or MariaDB."""
    if not url.startswith(DATABASES) or ":memory:" in url:
        raise SystemExit(
            f"DATABASE={redacted(url)} is not supported. Use a URL that starts with "
            f"{', '.join(DATABASES)}. An SQLite database must be a file, because processes and "
            "threads share it."
        )
    config = dict(dj_database_url.parse(url))
    if config["ENGINE"].endswith("mysql"):
        use_pymysql()
        # Before 5.2, Django defaults to MySQL's three-byte encoding.
        config["OPTIONS"] = {"charset": "utf8mb4"}
        if is_pymysql() and config["HOST"] in LOOPBACK:
            # To be ready for TLS, PyMySQL reads all certificates of the system for each connection.
            # That takes 40 ms, and all the rest 1 ms.
            config["OPTIONS"]["ssl_disabled"] = True
    if config["ENGINE"].endswith("sqlite3"):
        # Several processes write to the file, and the machine may be busy.
        config["OPTIONS"] = {"timeout": 30}
    return config


def broker(url, middleware, options):
    """Return ``DRAMATIQ_BROKER`` for a URL.

    Parameters:
      url(str): It starts with stub://, redis://, amqp:// or rabbitmq://.
      middleware(list): The dotted paths of the broker's middleware.
      options(dict): Additional arguments for the broker's class.
    """
    url = url.replace("rabbitmq://", "amqp://", 1)
    scheme = urlsplit(url).scheme
    if scheme not in BROKERS:
        raise SystemExit(
            f"BROKER={redacted(url)} is not supported. Use a URL that starts with stub://, "
            "redis://, amqp:// or rabbitmq://."
        )
    return {
        "BROKER": BROKERS[scheme],
        "OPTIONS": options if scheme == "stub" else {"url": url, **options},
        "MIDDLEWARE": middleware,
    }


def use_pymysql():
    """Use PyMySQL in place of mysqlclient, which needs a compiler to be installed."""
    try:
        import MySQLdb  # noqa: F401
    except ImportError:
        import pymysql

        # Django requires this version of mysqlclient. PyMySQL has the same interface.
        pymysql.version_info = (2, 2, 7, "final", 0)
        pymysql.install_as_MySQLdb()


def is_pymysql():
    """Return whether what is imported as MySQLdb is PyMySQL: mysqlclient has other options."""
    return sys.modules["MySQLdb"].__name__ == "pymysql"
