"""The servers that benchmarks run on: at a URL from the environment, or at the standard address."""

import contextlib
import sqlite3

from django.db import Error
from django.db.utils import ConnectionHandler

from benchmarks.errors import BenchmarkError
from benchmarks.project import services
from benchmarks.project.services import redacted

#: The tests have another one.
REDIS_DATABASE = 14

DATABASES = ("sqlite", "postgres", "mariadb")
BROKERS = ("stub", "redis", "rabbitmq")


def url(name):
    """Return the address of a server."""
    return services.address(name, redis_database=REDIS_DATABASE)


def answers(name):
    """Return whether something listens at the server's address; SQLite and the in-process
    broker always do."""
    return name not in services.STANDARD or services.listens(url(name))


def require(name):
    """Raise ``BenchmarkError`` unless the server answers."""
    if not answers(name):
        option = "--database" if name in DATABASES else "--broker"
        raise BenchmarkError(
            f"{name} does not answer at {redacted(url(name))}. Start it, name another address in "
            f"TASKSTATE_{name.upper()}_URL, or choose another one with {option}."
        )


@contextlib.contextmanager
def cursor(address):
    """Yield a cursor on a database, in autocommit; its connection ends with the block."""
    connection = ConnectionHandler({"default": services.database(address)})["default"]
    try:
        with connection.cursor() as opened:
            yield opened
    except Error as error:
        raise BenchmarkError(
            f"The database at {redacted(address)} refuses what the benchmark needs (to make and "
            f"drop databases, and to read statistics): {str(error).strip()}"
        ) from error
    finally:
        connection.close()


def create_database(name, database):
    """Make an empty database on a database server, in place of one of that name; return its
    URL."""
    drop_database(name, database)
    with cursor(url(name)) as opened:
        opened.execute(f"CREATE DATABASE {database}")
    return f"{url(name).rpartition('/')[0]}/{database}"


def drop_database(name, database):
    """Drop a database, if it is there."""
    # The process that was just ended may still be connected, to PostgreSQL's mind.
    force = " WITH (FORCE)" if name == "postgres" else ""
    with cursor(url(name)) as opened:
        opened.execute(f"DROP DATABASE IF EXISTS {database}{force}")


def remove_queue(name, namespace, queue):
    """Remove a queue from its broker, and whatever it still holds."""
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
    """Return the version of a server, or of SQLite, as it calls itself."""
    if name == "sqlite":
        return sqlite3.sqlite_version
    if name == "redis":
        return redis_client().info("server")["redis_version"]
    if name == "rabbitmq":
        with _pika_connection() as connection:
            found = connection._impl.server_properties["version"]
            return found.decode() if isinstance(found, bytes) else found
    question = {"postgres": "SHOW server_version", "mariadb": "SELECT VERSION()"}[name]
    with cursor(url(name)) as opened:
        opened.execute(question)
        return opened.fetchone()[0]
