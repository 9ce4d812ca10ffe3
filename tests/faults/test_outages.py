"""The database goes away while real workers are at work, in every way that it can, and returns."""

import contextlib
import functools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from taskstate.conf import Config
from tests.faults import private
from tests.faults.expected import Expected
from tests.faults.options import NIGHTLY
from tests.faults.proxy import Proxy
from tests.faults.watching import cpu_seconds, until
from tests.support import workers
from tests.support.processes import LiveProcess, environment, run_script
from tests.support.workers import Rundramatiq

pytestmark = pytest.mark.timeout(1200)

OUTAGE_SECONDS = 600 if NIGHTLY else 60
#: How long messages are sent: before the outage, in it, and after it.
BEFORE_SECONDS = AFTER_SECONDS = 4
LOADED_SECONDS = OUTAGE_SECONDS * 0.55
#: What is sent at once, and how often.
PORTION = {"succeed": 8, "fail_once": 1, "fail_for_good": 1}
PORTION_SECONDS = 0.5

#: Two intervals at most lie between two tries; what else it takes, on a machine that is busy.
RIGHT_SECONDS = 2 * Config.flush_interval + 7
#: What a process may take per second while it waits; Dramatiq's own threads poll their broker.
IDLE_CPU = 0.15

#: What a user sets in order to notice a dead network within seconds.
IMPATIENT_SECONDS = 3
IMPATIENT = {
    "OPTIONS": {
        "charset": "utf8mb4",
        "connect_timeout": IMPATIENT_SECONDS,
        "read_timeout": IMPATIENT_SECONDS,
        "write_timeout": IMPATIENT_SECONDS,
    }
}


class Site:
    """A site of its own: a database, a queue, workers, and a process that sends.

    Parameters:
      name(str): Its database, and what reports call it.
      server(PrivateServer): Where that is.
      broker(str): "redis" or "rabbitmq".
      port(int): Of a proxy before the server.
      taskstate(dict): Its settings for taskstate.
      more(dict): More settings of its database in ``DATABASES``.
    """

    def __init__(self, name, server, broker, *, port=None, taskstate=None, more=None):
        self.name = name
        self.server = server
        self.broker = broker
        self._port = port
        self._settings = {
            "DEMO_TASKSTATE": json.dumps(taskstate or {}),
            "DEMO_DATABASE": json.dumps(more or {}),
        }
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        with self._stack as stack:
            stack.enter_context(private.database_on(self.server, self.name))
            queue_env = stack.enter_context(workers.queue_of_its_own(self.broker))
            self.queue = queue_env["DEMO_QUEUE"]
            self.expected = Expected(self.server, self.name, self.queue)
            self.env = environment(
                "default",
                DATABASE=self.server.url(self.name, self._port),
                **queue_env,
                **self._settings,
            )
            run_script(workers.MIGRATE, self.env)
            self.sender = stack.enter_context(LiveProcess("tests.faults.live", [], self.env))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        self._stack.close()

    def start_workers(self):
        """Start two processes of four threads; return them once they are ready."""
        found = Rundramatiq(self.env, "--processes", "2", "--threads", "4")
        self._stack.enter_context(found)
        until(lambda: len(found.ready()) == 2)
        return found

    def send(self, **numbers):
        self.expected.note(self.sender.order("send", **numbers))

    def waiting(self):
        return workers.waiting(self.broker, self.queue)


class Outage:
    """A site whose database goes away, and returns.

    Parameters:
      site(Site): The site.
      begin(Callable), end(Callable): Take the database away, and bring it back.
      records(tuple): The levels of what each process logs about it.
      try_seconds(float): How long a try may take that is under way at the return.
    """

    def __init__(self, site, begin, end, records=("ERROR", "WARNING"), try_seconds=0):
        self.site = site
        self.begin = begin
        self.end = end
        self.records = records
        self.right_seconds = RIGHT_SECONDS + try_seconds

    def drill(self, report):
        """Go through all of it, and say what was found."""
        workers_ = self.site.start_workers()
        self.load(BEFORE_SECONDS)
        until(lambda: not self.site.expected.faults())
        assert workers_.records() == self.site.sender.order("logged") == []
        idle = self.cpu_per_second(workers_, 4)

        self.begin()
        began = time.monotonic()
        before = len(self.site.expected.ends)
        self.load(LOADED_SECONDS)
        until(lambda: self.site.waiting() == 0)
        worked_off = time.monotonic() - began
        waited_for = self.cpu_per_second(workers_, began + OUTAGE_SECONDS - time.monotonic() - 1)
        during = len(self.site.expected.ends) - before
        until(lambda: time.monotonic() >= began + OUTAGE_SECONDS)

        self.end()
        took = until(lambda: not self.site.expected.faults(), self.right_seconds * 4, pause=0.05)
        self.load(AFTER_SECONDS)
        until(lambda: not self.site.expected.faults())
        sender = [level for level, _ in self.site.sender.order("logged")]
        stats = self.site.sender.order("stats")
        workers_.stop()
        records = workers_.records()
        by_process = {
            pid: tuple(level for logged, level in records if logged == pid)
            for pid in workers_.ready()
        }
        faults = self.site.expected.faults()

        report(
            f"{self.site.name} ({self.site.broker}): away for {OUTAGE_SECONDS} s; {during} of "
            f"{len(self.site.expected.ends)} messages sent in it and worked off after "
            f"{worked_off:.1f} s; right {took:.2f} s after its return; {len(faults)} rows wrong; "
            f"{stats['failed_flushes']} tries of the sender failed, {stats['dropped']} dropped; "
            f"lines logged: sender {len(sender)}, workers "
            f"{[len(found) for found in by_process.values()]}; CPU seconds per second of waiting: "
            f"{waited_for:.3f} (before: {idle:.3f})"
        )
        assert faults == []
        assert took < self.right_seconds
        assert tuple(sender) == self.records
        assert list(by_process.values()) == [self.records] * 2
        assert len(records) == 2 * len(self.records), "another process logged something"
        assert waited_for < IDLE_CPU
        assert stats["dropped"] == 0

    def load(self, seconds):
        """Send portions of messages for so long."""
        pause = threading.Event()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.site.send(**PORTION)
            pause.wait(PORTION_SECONDS)

    def cpu_per_second(self, found, seconds):
        """Return how much processor time the busier worker process takes per second."""
        began, before = time.monotonic(), [cpu_seconds(pid) for pid in found.ready()]
        threading.Event().wait(seconds)
        passed = time.monotonic() - began
        after = [cpu_seconds(pid) for pid in found.ready()]
        return max(end - start for start, end in zip(before, after)) / passed


def test_the_database_is_away_under_load(postgres, mariadb, report):
    """Workers go on; what they did is written soon after its return, each process logs two
    lines about it, and waiting takes no processor time."""
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        stopped_postgres = enter(private.Postgres())
        stopped_mariadb = enter(private.MariaDb())
        cut = enter(Proxy(postgres.port))
        stalled = enter(Proxy(postgres.port))
        timed_out = enter(Proxy(mariadb.port))

        refused = Site("refused", postgres, "redis")
        outages = [
            Outage(
                refused,
                lambda: postgres.set_connectable("refused", connectable=False),
                lambda: postgres.set_connectable("refused", connectable=True),
            ),
            Outage(Site("cut", postgres, "rabbitmq", port=cut.port), cut.cut, cut.mend),
            Outage(
                Site("stopped", stopped_postgres, "redis"),
                stopped_postgres.stop,
                stopped_postgres.start,
            ),
            Outage(
                Site("stopped", stopped_mariadb, "rabbitmq"),
                stopped_mariadb.stop,
                stopped_mariadb.start,
            ),
            # The client does not notice it, and has set no limit of its own: a write just takes as
            # long.  (On an open connection; the server limits how long a login may take.)
            Outage(
                Site("stalled", postgres, "redis", port=stalled.port, more={"CONN_MAX_AGE": None}),
                stalled.stall,
                stalled.mend,
                records=(),
            ),
            Outage(
                Site("timed_out", mariadb, "redis", port=timed_out.port, more=IMPATIENT),
                timed_out.stall,
                timed_out.mend,
                # It connects, and then it writes.
                try_seconds=2 * IMPATIENT_SECONDS,
            ),
        ]
        for outage in outages:
            enter(outage.site)
        with ThreadPoolExecutor(len(outages)) as pool:
            for drilled in [pool.submit(outage.drill, report) for outage in outages]:
                drilled.result()


WAIT_SECONDS = 15
MESSAGES = 40
THREADS = 8
SHUTDOWN_TIMEOUT = 3
#: What Dramatiq and two interpreters take for their end besides, on a machine that is busy.
END_SECONDS = SHUTDOWN_TIMEOUT + 12


def wait_before_ack(site, begin, end, report):
    """Let workers that wait for the database be stopped, and others finish their work."""
    first = site.start_workers()
    begin()
    site.send(succeed=MESSAGES)
    # On RabbitMQ all messages are fetched by now, on Redis most.
    threading.Event().wait(2)
    before = [cpu_seconds(pid) for pid in first.ready()]
    threading.Event().wait(WAIT_SECONDS)
    cpu = max(cpu_seconds(pid) - start for pid, start in zip(first.ready(), before))
    cpu /= WAIT_SECONDS

    began = time.monotonic()
    first.stop()
    ended = time.monotonic() - began
    waited_in_vain = first.output().count("is not acknowledged, so the broker delivers it again")
    left = site.waiting()

    end()
    restarted_at = time.time()
    second = site.start_workers()
    took = until(lambda: not site.expected.faults(), limit=120)
    second.stop()
    rows = site.expected.rows()
    faults = site.expected.faults(rows)
    run_again = sum(started.timestamp() >= restarted_at - 1 for *_, started, _, _ in rows.values())
    still_there = site.waiting()

    report(
        f"{site.broker}: {MESSAGES} messages, {waited_in_vain} of them done and in wait for the "
        f"commit; CPU seconds per second of waiting: {cpu:.3f}; SIGTERM took {ended:.1f} s with a "
        f"SHUTDOWN_TIMEOUT of {SHUTDOWN_TIMEOUT}; {left} not acknowledged, {run_again} run by the "
        f"next workers, right {took:.1f} s after these were ready; {len(faults)} rows wrong, "
        f"{still_there} messages left"
    )
    assert faults == []
    assert cpu < IDLE_CPU
    assert ended < END_SECONDS
    assert waited_in_vain == THREADS
    assert left == MESSAGES
    assert run_again == MESSAGES
    assert still_there == 0


def test_workers_that_wait_for_the_commit(postgres, report):
    """With FLUSH_BEFORE_ACK and no database: they wait without spinning, SIGTERM ends them in
    time, and nothing is acknowledged that isn't written."""
    settings = {"FLUSH_BEFORE_ACK": True, "SHUTDOWN_TIMEOUT": SHUTDOWN_TIMEOUT}
    with contextlib.ExitStack() as stack:
        sites = [
            stack.enter_context(Site(f"waits_{broker}", postgres, broker, taskstate=settings))
            for broker in ("redis", "rabbitmq")
        ]
        with ThreadPoolExecutor(len(sites)) as pool:
            drills = [
                pool.submit(
                    wait_before_ack,
                    site,
                    functools.partial(postgres.set_connectable, site.name, connectable=False),
                    functools.partial(postgres.set_connectable, site.name, connectable=True),
                    report,
                )
                for site in sites
            ]
            for drill in drills:
                drill.result()
