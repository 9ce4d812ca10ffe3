"""Servers that only the drills use: they are stopped, restarted and made read-only."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from benchmarks import services
from tests.support import servers

START_SECONDS = 120
HOST = "127.0.0.1"
#: Where Debian keeps what isn't on the PATH.
MORE_PATH = [*sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin"))), "/usr/sbin"]
#: What is on the PATH under this name is a wrapper, for the machine's own node.
RABBITMQ_PATH = "/usr/lib/rabbitmq/bin"


def program(name, *folders):
    """Return the path of a server's program, or skip the test; the summary says so."""
    folders = [*folders, os.environ.get("PATH", ""), *MORE_PATH]
    path = shutil.which(name, path=os.pathsep.join(folders))
    if path is None and servers.required():
        pytest.fail(f"{name} isn't installed, and TASKSTATE_TEST_SERVERS=required")
    return path or pytest.skip(f"{name} isn't installed")


def free_port():
    with socket.create_server((HOST, 0)) as listener:
        return listener.getsockname()[1]


class PrivateServer:
    """A server with a folder, a port and a log of its own.

    ``USER`` runs it if root runs the tests: most servers don't start as root.
    """

    USER = ""

    #: Of its process; None is that of the tests.
    environment = None

    def __init__(self):
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="taskstate-faults-"))
        self.process = None
        if self._demote:
            shutil.chown(self.folder, self.USER, pwd.getpwnam(self.USER).pw_gid)

    def __enter__(self):
        self._log = (self.folder / "log").open("a+")
        try:
            self.prepare()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error):
        self.stop()
        self._log.close()
        shutil.rmtree(self.folder)

    @property
    def _demote(self):
        return os.getuid() == 0 and self.USER

    def prepare(self):
        """Make the folder's content, before the first start."""

    def command(self):
        """Return the command that runs the server in the foreground."""
        raise NotImplementedError

    def run(self, *command):
        """Run a program to its end, as the server's user."""
        done = subprocess.run(
            self._as_user(command),
            env=self.environment,
            stdout=self._log,
            stderr=self._log,
            cwd=self.folder,
            check=False,
        )
        assert done.returncode == 0, self.log()

    def start(self):
        """Start it, and wait until it answers."""
        self.process = subprocess.Popen(
            self._as_user(self.command()),
            env=self.environment,
            stdout=self._log,
            stderr=self._log,
            cwd=self.folder,
        )
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            assert self.process.poll() is None, f"it ended: {self.log()}"
            assert time.monotonic() < deadline, f"it doesn't answer: {self.log()}"
            time.sleep(0.05)

    def stop(self, sign=signal.SIGTERM):
        """Stop it, and wait for that."""
        if self.process is None:
            return
        self.process.send_signal(sign)
        self.process.wait(START_SECONDS)
        self.process = None

    def restart(self):
        self.stop()
        self.start()

    def answers(self):
        """Return whether it can be worked with."""
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), 1):
            return True
        return False

    def log(self):
        """Return the end of its log."""
        return self.whole_log()[-4000:]

    def whole_log(self):
        """Return its log."""
        return (self.folder / "log").read_text()

    def _as_user(self, command):
        command = list(map(str, command))
        if self._demote:
            # This process stays the parent: there is nothing between it and the server.
            return [
                "setpriv",
                f"--reuid={self.USER}",
                f"--regid={self.USER}",
                "--clear-groups",
                "--",
                *command,
            ]
        return command


class Postgres(PrivateServer):
    """PostgreSQL.  Not stopped by SIGTERM, which waits for clients: SIGINT cuts them off."""

    USER = "postgres"

    def prepare(self):
        self.run(program("initdb"), "--auth=trust", "--username=postgres", "--no-sync", "data")
        with (self.folder / "data" / "postgresql.conf").open("a") as config:
            config.write("max_connections = 200\n")

    def command(self):
        yield program("postgres")
        yield from ("-D", "data", "-p", self.port, "-h", HOST, "-k", self.folder)

    def answers(self):
        try:
            self.execute("SELECT 1")
        except Exception:
            return False
        return True

    def stop(self, sign=signal.SIGINT):
        super().stop(sign)

    def url(self, database="postgres", port=None):
        """Return the URL of a database, perhaps by way of another port."""
        return f"postgres://postgres@{HOST}:{port or self.port}/{database}"

    def execute(self, statement, database="postgres"):
        """Run a statement in autocommit; return its rows, if it has any."""
        try:
            import psycopg
        except ImportError:
            import psycopg2 as psycopg
        connection = psycopg.connect(
            host=HOST, port=self.port, user="postgres", dbname=database, connect_timeout=5
        )
        try:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def end_connections(self, database):
        """End every other connection to a database; return how many there were."""
        rows = self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE datname = '{database}' AND pid <> pg_backend_pid()"
        )
        return len(rows)

    def set_read_only(self, database, *, read_only, keep=False):
        """Let no new transaction write, as after a failover to a standby; or let it again.

        It holds for new connections; ``keep`` keeps those that there are, as when an address has
        moved on to another server.
        """
        value = "on" if read_only else "off"
        self.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = {value}")
        if not keep:
            self.end_connections(database)

    def set_connectable(self, database, *, connectable):
        """Reject every connection to a database, and end the open ones; or accept them again."""
        self.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS {str(connectable).lower()}")
        if not connectable:
            self.end_connections(database)

    def set_idle_limit(self, database, seconds):
        """Close connections that are idle for so long (PostgreSQL 14 and later); new ones only."""
        self.execute(f"ALTER DATABASE {database} SET idle_session_timeout = '{seconds}s'")


class MariaDb(PrivateServer):
    """MariaDB."""

    USER = "mysql"

    @property
    def environment(self):
        """Return that of the tests, with a folder of its own for temporary tables.

        A server that starts deletes all of them that it finds in its folder. If that were /tmp,
        those of a server that another test is just asking would be among them.
        """
        return {**os.environ, "TMPDIR": str(self.folder)}

    def prepare(self):
        self.run(
            program("mariadb-install-db"),
            "--no-defaults",
            f"--datadir={self.folder / 'data'}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        )

    def command(self):
        yield program("mariadbd")
        yield from ("--no-defaults", f"--datadir={self.folder / 'data'}", f"--port={self.port}")
        yield from (f"--socket={self.folder / 'socket'}", f"--bind-address={HOST}")
        yield "--innodb-flush-log-at-trx-commit=2"

    def answers(self):
        try:
            self.execute("SELECT 1")
        except Exception:
            return False
        return True

    def start(self):
        """Start it, with a user like root who may not write while the server is read-only."""
        super().start()
        if self.execute("SELECT 1 FROM user WHERE user = 'drill'"):
            return  # To grant it all once more would let who connects in between write for good.
        self.execute("CREATE USER drill@localhost")
        self.execute("GRANT ALL ON *.* TO drill@localhost")
        self.execute("REVOKE READ_ONLY ADMIN ON *.* FROM drill@localhost")

    def url(self, database="mysql", port=None):
        """Return the URL of a database, perhaps by way of another port."""
        return f"mysql://drill@{HOST}:{port or self.port}/{database}"

    def execute(self, statement, database="mysql"):
        """Run a statement in autocommit; return its rows, if it has any."""
        import pymysql

        connection = pymysql.connect(
            host=HOST,
            port=self.port,
            user="root",
            database=database,
            autocommit=True,
            connect_timeout=5,
            ssl_disabled=True,  # As in ``services.database``.
        )
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall()
        finally:
            connection.close()

    def end_connections(self, database):
        """End every connection to a database; return how many there were."""
        rows = self.execute(
            f"SELECT id FROM information_schema.processlist WHERE db = '{database}'"
        )
        for (number,) in rows:
            with contextlib.suppress(Exception):  # It has ended by itself.
                self.execute(f"KILL {number}")
        return len(rows)

    def set_read_only(self, database, *, read_only):
        """Let only root write; or let all users write again."""
        self.execute(f"SET GLOBAL read_only = {int(read_only)}")

    def set_idle_limit(self, database, seconds):
        """Close connections that are idle for so long, in any database; new ones only."""
        self.execute(f"SET GLOBAL wait_timeout = {seconds}")


class PgBouncer(PrivateServer):
    """PgBouncer, which pools transactions before a PostgreSQL."""

    USER = "postgres"

    def __init__(self, postgres):
        self.postgres = postgres
        super().__init__()

    def prepare(self):
        (self.folder / "pgbouncer.ini").write_text(
            "[databases]\n"
            f"* = host={HOST} port={self.postgres.port} user=postgres\n"
            "[pgbouncer]\n"
            f"listen_addr = {HOST}\n"
            f"listen_port = {self.port}\n"
            "unix_socket_dir =\n"
            "auth_type = any\n"
            "pool_mode = transaction\n"
            "default_pool_size = 4\n"
            "max_client_conn = 200\n"
        )
        (self.folder / "pgbouncer.ini").chmod(0o644)

    def command(self):
        return program("pgbouncer"), "pgbouncer.ini"

    def stop(self, sign=signal.SIGQUIT):
        """Stop it at once: what SIGTERM waits for differs by its version."""
        super().stop(sign)

    def url(self, database="postgres", port=None):
        """Return the URL of a database, by way of the pool."""
        return self.postgres.url(database, port or self.port)

    def set_idle_limit(self, database, seconds):
        """Close connections of clients that are idle for so long, to any database."""
        with (self.folder / "pgbouncer.ini").open("a") as config:
            config.write(f"client_idle_timeout = {seconds}\n")
        self.process.send_signal(signal.SIGHUP)

    def execute(self, statement, database="postgres"):
        """Run a statement on the server itself."""
        return self.postgres.execute(statement, database)

    def end_connections(self, database):
        """End the pool's own connections to a database; return how many there were."""
        return self.postgres.end_connections(database)

    def set_read_only(self, database, *, read_only):
        """Let no new transaction write; or let it again."""
        self.postgres.set_read_only(database, read_only=read_only)


class Redis(PrivateServer):
    """Redis, which writes nothing to disk."""

    def command(self):
        yield program("redis-server")
        yield from ("--port", self.port, "--bind", HOST, "--save", "", "--appendonly", "no")

    def url(self, database=0):
        return f"redis://{HOST}:{self.port}/{database}"


class RabbitMq(PrivateServer):
    """RabbitMQ, a node of its own."""

    USER = "rabbitmq"

    def __init__(self):
        super().__init__()
        self.environment = {
            **os.environ,
            "ERL_EPMD_ADDRESS": HOST,
            "HOME": str(self.folder),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "none"),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_LOG_BASE": str(self.folder / "logs"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODENAME": f"drill{self.port}@localhost",
        }

    def command(self):
        return [program("rabbitmq-server", RABBITMQ_PATH)]

    def url(self):
        return f"amqp://guest:guest@{HOST}:{self.port}/"


@contextlib.contextmanager
def database_on(server, name):
    """Make a database on a private server; return its URL."""
    server.execute(f"CREATE DATABASE {name}")
    yield server.url(name)
    if server.process is not None:
        server.end_connections(name)
        server.execute(f"DROP DATABASE {name}")


def settings_of(url):
    """Return the settings in ``DATABASES`` for a URL, with all that Django adds to them."""
    return {
        "ATOMIC_REQUESTS": False,
        "AUTOCOMMIT": True,
        "CONN_HEALTH_CHECKS": False,
        "CONN_MAX_AGE": 0,
        "OPTIONS": {},
        "TIME_ZONE": None,
        "TEST": {"CHARSET": None, "COLLATION": None, "MIGRATE": True, "MIRROR": None, "NAME": None},
        **services.database(url),
    }
