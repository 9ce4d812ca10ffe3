"""URLs of databases and brokers, as Django and django_dramatiq want them."""

import os
import socket
from urllib.parse import urlsplit

import dj_database_url

DATABASES = ("sqlite:///", "postgres://", "postgresql://", "mysql://")
BROKERS = {
    "stub": "dramatiq.brokers.stub.StubBroker",
    "redis": "dramatiq.brokers.redis.RedisBroker",
    "amqp": "dramatiq.brokers.rabbitmq.RabbitmqBroker",
}


#: Where servers are by default; the number of Redis's database follows.
STANDARD = {
    "postgres": "postgres://postgres@127.0.0.1:5432/postgres",
    "mariadb": "mysql://root@127.0.0.1:3306/mysql",
    "redis": "redis://127.0.0.1:6379",
    "rabbitmq": "amqp://guest:guest@127.0.0.1:5672/",
}
ANSWER_SECONDS = 2


def address(server, *, redis_database):
    """Return the address of a server: the variable TASKSTATE_POSTGRES_URL and so on, or the
    standard one."""
    standard = STANDARD[server]
    if server == "redis":
        standard = f"{standard}/{redis_database}"
    return os.environ.get(f"TASKSTATE_{server.upper()}_URL", standard)


def listens(url):
    """Return whether something listens at an address."""
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname, parts.port), timeout=ANSWER_SECONDS):
            return True
    except OSError:
        return False


def redacted(url):
    """Return an address without its user and password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def database(url):
    """Return the entry of ``DATABASES`` for ``url``: sqlite, postgres, or mysql, which is also
    MariaDB."""
    if not url.startswith(DATABASES) or ":memory:" in url:
        raise SystemExit(
            f"DATABASE={url}: it starts with one of {', '.join(DATABASES)}, and an SQLite "
            "database is a file, since processes and threads share it."
        )
    config = dict(dj_database_url.parse(url))
    if config["ENGINE"].endswith("mysql"):
        use_pymysql()
        # Django's own default is an encoding of three bytes before 5.2.
        config["OPTIONS"] = {"charset": "utf8mb4"}
    if config["ENGINE"].endswith("sqlite3"):
        # Several processes write to the file, on a machine that is busy.
        config["OPTIONS"] = {"timeout": 30}
    return config


def broker(url, middleware, options):
    """Return ``DRAMATIQ_BROKER`` for ``url``: stub, redis or amqp (also spelled rabbitmq), with
    more ``options`` for the broker's class."""
    url = url.replace("rabbitmq://", "amqp://", 1)
    scheme = urlsplit(url).scheme
    if scheme not in BROKERS:
        raise SystemExit(f"BROKER={url}: it starts with stub://, redis:// or rabbitmq://.")
    return {
        "BROKER": BROKERS[scheme],
        "OPTIONS": options if scheme == "stub" else {"url": url, **options},
        "MIDDLEWARE": middleware,
    }


def use_pymysql():
    """Let PyMySQL stand in for mysqlclient, which needs a compiler to be installed."""
    try:
        import MySQLdb  # noqa: F401
    except ImportError:
        import pymysql

        # The version of mysqlclient that Django asks for; PyMySQL answers its interface.
        pymysql.version_info = (2, 2, 7, "final", 0)
        pymysql.install_as_MySQLdb()
