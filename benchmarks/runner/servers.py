"""The servers that the benchmarks use: their URLs, databases, queues and versions."""

import contextlib
import sqlite3

from django.db import Error
from django.db.utils import ConnectionHandler

from benchmarks import services
from benchmarks.errors import BenchmarkError
from benchmarks.services import redacted

#: Differs from the tests' database.
REDIS_DATABASE = 14

DATABASES = ("sqlite", "postgres", "mariadb")
BROKERS = ("stub", "redis", "rabbitmq")


def url(name):
    """Return the URL of a server."""
    return services.address(name, redis_database=REDIS_DATABASE)


def answers(name):
    """Return whether a server accepts connections; always true for SQLite and the in-process
    broker."""
    return name not in services.STANDARD or services.listens(url(name))


def require(name):
    """Raise ``BenchmarkError`` if a server does not answer."""
    if not answers(name):
        option = "--database" if name in DATABASES else "--broker"
        raise BenchmarkError(
            f"{name} does not answer at {redacted(url(name))}. Start it, name another address in "
            f"TASKSTATE_{name.upper()}_URL, or choose another one with {option}."
        )


@contextlib.contextmanager
def cursor(address):
    """Yield a cursor of a new connection in autocommit mode; close the connection after the
    block."""
    connection = ConnectionHandler({"default": services.database(address)})["default"]
    try:
        with connection.cursor() as opened:
            yield opened
    except Error as error:
        raise BenchmarkError(
            f"The database at {redacted(address)} rejected a statement. The benchmarks need a user "
            f"that may create and drop databases, and read statistics: {str(error).strip()}"
        ) from error
    finally:
        connection.close()


def create_database(name, database):
    """Create an empty database on a server, replacing one with this name; return its URL."""
    drop_database(name, database)
    with cursor(url(name)) as opened:
        opened.execute(f"CREATE DATABASE {database}")
    return f"{url(name).rpartition('/')[0]}/{database}"


def drop_database(name, database):
    """Drop a database if it exists."""
    # PostgreSQL may not have noticed yet that a process has ended its connection.
    force = " WITH (FORCE)" if name == "postgres" else ""
    with cursor(url(name)) as opened:
        opened.execute(f"DROP DATABASE IF EXISTS {database}{force}")


def postgres_processes(address):
    """Return the ids of PostgreSQL's own processes, such as the one that writes the WAL."""
    with cursor(address) as opened:
        opened.execute("SELECT pid FROM pg_stat_activity WHERE backend_type <> 'client backend'")
        return [pid for (pid,) in opened.fetchall()]


def remove_queue(name, namespace, queue):
    """Remove a queue and its messages from a broker."""
    if name == "redis":
        client = redis_client()
        for key in client.scan_iter(f"{namespace}:*"):
            client.delete(key)
        client.close()
    elif name == "rabbitmq":
        with _pika_connection() as connection:
            for full_name in (queue, f"{queue}.DQ", f"{queue}.XQ"):
                connection.channel().queue_delete(full_name)


def redis_client():
    """Return a client of the Redis server."""
    import redis

    return redis.Redis.from_url(url("redis"))


def _pika_connection():
    import pika

    return pika.BlockingConnection(pika.URLParameters(url("rabbitmq")))


def version(name):
    """Return the version that a server, or SQLite, reports."""
    if name == "sqlite":
        return sqlite3.sqlite_version
    if name == "redis":
        with contextlib.closing(redis_client()) as client:
            return client.info("server")["redis_version"]
    if name == "rabbitmq":
        with _pika_connection() as connection:
            found = connection._impl.server_properties["version"]
            return found.decode() if isinstance(found, bytes) else found
    question = {"postgres": "SHOW server_version", "mariadb": "SELECT VERSION()"}[name]
    with cursor(url(name)) as opened:
        opened.execute(question)
        return opened.fetchone()[0]
