"""Connections end under the writer: closed by the server, lost to a restart or a failover, pooled;
whatever ``CONN_MAX_AGE`` is."""

import contextlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import django
import pytest

from taskstate.writer.pacing import BURST
from tests.faults import private
from tests.faults.expected import Expected
from tests.faults.options import DATABASE
from tests.faults.watching import connections, until
from tests.support.factories import make_id
from tests.support.limits import LIMIT_SECONDS
from tests.support.processes import LiveProcess, SecondProcess, environment, run_script
from tests.support.workers import MIGRATE

pytestmark = pytest.mark.timeout(600)

QUEUE = "connections"
#: What is sent at once, and how often.
PORTION = {"succeed": 8, "fail_once": 1, "fail_for_good": 1}
PORTION_SECONDS = 0.2
AWAY_SECONDS = 2
IDLE_LIMIT_SECONDS = 2
#: How long it may take until all rows are right: a pool has a backoff of its own.
RIGHT_SECONDS = 60

QUIET = []
OUTAGE = ["ERROR", "WARNING"]


class Client:
    """A process that sends and works, with its settings of the connection."""

    def __init__(self, server, name, *, store="upsert", most=1, idle=1, pooled=False, **config):
        self.name = name
        #: Its pool waits for a server by itself: half a minute, before a write fails.
        self.pooled = pooled
        #: How many connections it may hold while it is busy.
        self.most = most
        #: How many it keeps.
        self.idle = idle
        self.port = server.port
        self.process = LiveProcess(
            "tests.faults.live",
            [],
            environment(
                "default",
                DATABASE=server.url(DATABASE),
                DEMO_DATABASE=json.dumps(config),
                DEMO_TASKSTATE=json.dumps({"STORE": store}),
                DEMO_QUEUE=QUEUE,
            ),
        )
        self._heard = 0

    def held(self):
        """Return how many connections it holds now."""
        return connections(self.process.process.pid, self.port)

    def records(self):
        """Return what it has logged since this was asked last: (level, text)."""
        seen = self.process.order("logged")
        new, self._heard = seen[self._heard :], len(seen)
        return new


def clients_of(server):
    """Return a client of each kind that there is for a server."""
    stores = ["upsert", "orm"]
    for age in (0, 60, None):
        for store in stores:
            name = f"CONN_MAX_AGE {age}, {store}"
            yield Client(server, name, store=store, idle=age != 0, CONN_MAX_AGE=age)
    has_pool = django.VERSION >= (5, 1)
    if isinstance(server, private.Postgres) and has_pool:
        # psycopg's default is a pool of four.
        yield Client(server, "pool", most=4, idle=4, pooled=True, OPTIONS={"pool": True})
        options = {"pool": {"min_size": 1, "max_size": 2}}
        yield Client(server, "pool of 1 to 2", most=2, idle=2, pooled=True, OPTIONS=options)


class Drill:
    """Clients on one server, which all go through the same."""

    def __init__(self, server, clients, report):
        self.server = server
        self.clients = clients
        self.report = report
        self.expected = Expected(server, DATABASE, QUEUE)

    def send(self, seconds=0.0):
        """Send portions for so long, one at least; return the most connections seen, by client."""
        most = dict.fromkeys(self.clients, 0)
        for _ in range(1 + round(seconds / PORTION_SECONDS)):
            for client in self.clients:
                self.expected.note(client.process.order("send", **PORTION))
                most[client] = max(most[client], client.held())
            threading.Event().wait(PORTION_SECONDS)
        return most

    def send_while_away(self):
        """Send while nothing can be written, until each client has noticed."""
        before = self._failures()
        self.send(AWAY_SECONDS)
        until(lambda: all(now > then for now, then in zip(self._failures(), before)), RIGHT_SECONDS)

    def _failures(self):
        """Return how many flushes have failed, by client: pools wait by themselves."""
        clients = [client for client in self.clients if not client.pooled]
        return [client.process.order("stats")["failed_flushes"] for client in clients]

    def check(self, what, records):
        """Wait until all rows are right, and look at what was logged."""
        self.send()
        took = until(lambda: not self.expected.faults(), RIGHT_SECONDS)
        # The last flush may not have come to what it logs after the commit.
        until(lambda: all(client.process.order("stats")["pending"] == 0 for client in self.clients))
        found = {client.name: client.records() for client in self.clients}
        levels = {name: [level for level, _ in logged] for name, logged in found.items()}
        self.report(
            f"{what}: {len(self.expected.ends):,} messages so far, right {took:.1f} s after the "
            f"last; logged by each: {_brief(levels)}"
        )
        for client in self.clients:
            if not (client.pooled and levels[client.name] == QUIET):
                assert levels[client.name] == records, found

    def wait_for_idleness(self):
        until(lambda: all(client.held() <= client.idle for client in self.clients))


def _brief(found):
    """Return the same figures together: figure, and for how many."""
    figures = list(map(str, found.values()))
    return ", ".join(f"{figure} x {figures.count(figure)}" for figure in sorted(set(figures)))


@pytest.fixture(params=["postgres", "mariadb", "pgbouncer"])
def server(request):
    """Each server of the drills' own, in turn, and the pool before PostgreSQL."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def through_pool(pgbouncer):
    """The environment of a migrated database behind PgBouncer."""
    with private.database_on(pgbouncer, DATABASE) as url:
        run_script(MIGRATE, environment("default", DATABASE=url))
        yield {"DATABASE": url}


@pytest.fixture
def migrated(server):
    """A migrated database on ``server``."""
    with private.database_on(server, DATABASE) as url:
        run_script(MIGRATE, environment("default", DATABASE=url))
        yield


def test_connections_end(server, migrated, report):
    """Nothing is lost; a process holds no more connections than it should; a connection that was
    closed while it was idle is no outage, and each outage is logged in two lines."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(client.process) and client for client in clients_of(server)]
        drill = Drill(server, clients, report)
        busy = drill.send(2)
        drill.check("busy", QUIET)
        drill.wait_for_idleness()
        idle = {client: client.held() for client in clients}
        for client in clients:
            report(f"{client.name}: connections busy {busy[client]}, idle {idle[client]}")
            assert 1 <= busy[client] <= client.most
            assert idle[client] == client.idle

        server.set_idle_limit(DATABASE, IDLE_LIMIT_SECONDS)
        ended = server.end_connections(DATABASE)
        drill.check(f"{ended} connections ended while idle", QUIET)
        until(lambda: not any(client.held() for client in clients))
        drill.check("closed by the server while idle", QUIET)
        drill.wait_for_idleness()
        server.restart()
        drill.check("restarted while idle", QUIET)

        server.stop()
        drill.send_while_away()
        server.start()
        drill.check("restarted while busy", OUTAGE)
        drill.send()
        server.set_read_only(DATABASE, read_only=True)
        drill.send_while_away()
        server.set_read_only(DATABASE, read_only=False)
        drill.check("read-only for a while", OUTAGE)
        if isinstance(server, private.Postgres):
            server.set_read_only(DATABASE, read_only=True)
            drill.send_while_away()
            server.set_read_only(DATABASE, read_only=False, keep=True)
            drill.check("read-only for those who stay connected", OUTAGE)


WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
CLEARED_A_WHILE_AGO = (
    "SELECT id FROM taskstate_watermark "
    "WHERE EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 - cleared_at > 1000000"
)
SIZE = 60
ROUNDS = 40
CLEARS = 5


@pytest.mark.parametrize("stores", [("orm", "orm"), ("upsert", "upsert"), ("orm", "upsert")])
def test_writers_behind_pgbouncer(pgbouncer, through_pool, stores, report):
    """Where transactions are pooled: two processes write the same messages and a third one clears
    them; rows end as their last transitions say, and what was cleared stays so."""

    def rows():
        found = pgbouncer.execute(
            "SELECT message_id, status, attempt FROM taskstate_task", DATABASE
        )
        return {str(message_id): tuple(ends) for message_id, *ends in found}

    def merge(process, seed):
        return process.order("merge", rounds=ROUNDS, size=SIZE, seed=seed)

    with contextlib.ExitStack() as stack:
        one, two, clearer = (
            stack.enter_context(SecondProcess("default", store=store, **through_pool))
            for store in (*stores, "auto")
        )
        pool = stack.enter_context(ThreadPoolExecutor())
        for clears in (CLEARS, 0):
            mergers = [pool.submit(merge, one, 1), pool.submit(merge, two, 2)]
            for _ in range(clears):
                assert clearer.order("clear") == "cleared"
            assert [merger.result(LIMIT_SECONDS) for merger in mergers] == ["merged"] * 2
        # The later of both last transitions: the second process's are a millisecond later.
        assert rows() == {make_id(number): ("done", 2) for number in range(SIZE)}

        old, new, held = [make_id(100)], [make_id(101)], [make_id(102)]
        one.order("spend_burst", ids=[make_id(200 + number) for number in range(BURST)])
        one.order("enqueued", ids=old)
        assert one.order("pending") == 1
        assert two.order("hold_next_flush", ids=held)
        cleared = pool.submit(clearer.order, "clear")
        until(lambda: pgbouncer.execute(WAITING))
        assert two.order("release")
        assert cleared.result(LIMIT_SECONDS) == "cleared"
        # What happened while the fence was read counts as before the clear.
        until(lambda: pgbouncer.execute(CLEARED_A_WHILE_AGO, DATABASE))
        one.order("enqueued", ids=new)
        assert one.order("flush")
        assert rows() == {new[0]: ("enqueued", 1)}

    report(
        f"{' and '.join(stores)}: {2 * 2 * ROUNDS} batches of up to {SIZE} messages, "
        f"{CLEARS + 1} clears; 0 rows wrong, 0 came back"
    )
