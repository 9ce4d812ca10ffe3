"""Forks under load, in every way and at any moment, and every way in which a process can end.

What was sent is what the rows hold, and each change is told once.
"""

import contextlib
import json
import signal

import pytest
import redis

from taskstate.models import Task
from tests.faults.ledger import Ledger
from tests.faults.web import Clients, Gunicorn, Uwsgi
from tests.support import servers
from tests.support.limits import LIMIT_SECONDS
from tests.support.processes import end_script, environment, is_alive, run_script, start_script
from tests.support.workers import Rundramatiq, queue_of_its_own, send, wait_until


@pytest.fixture
def ledger():
    with Ledger() as ledger:
        yield ledger


FORK_HOOKS = "--py-call-uwsgi-fork-hooks"
#: Its class, its options, and how many messages the site sends when it is loaded: as a rule in the
#: process that forks the workers.
WEB_SERVERS = {
    "gunicorn": (Gunicorn, ["--preload"], 20),
    "gunicorn, threads": (Gunicorn, ["--preload", "--worker-class=gthread", "--threads=4"], 20),
    # gevent has to patch Python before Django is imported, so each worker loads the application.
    "gunicorn, gevent": (Gunicorn, ["--worker-class=gevent"], 20),
    "uWSGI": (Uwsgi, [], 0),
    "uWSGI, fork hooks": (Uwsgi, [FORK_HOOKS], 20),
}
#: How many requests are answered before each step.
ANSWERS = 200


@pytest.mark.parametrize("kind", WEB_SERVERS)
def test_a_web_server_under_load(kind, server_database, ledger, report):
    """It forks its workers, reloads, and stops, while requests come in without a pause."""
    server, options, first = WEB_SERVERS[kind]
    env = environment(server_database, **ledger.environment, DRILL_SEND_FIRST=str(first))
    with server(env, *options) as web:
        with Clients(web.port) as clients:
            wait_until(lambda: len(clients.answers) > ANSWERS, 20)
            before = {pid for pid, _ in clients.answers}
            web.reload(before)
            # Some of the old ones go on until the new ones are there.
            wait_until(lambda: not before & {pid for pid, _ in clients.answers[-ANSWERS:]}, 30)
            # One that still writes what is left must not be told to stop again: uWSGI would end it.
            wait_until(lambda: not any(map(is_alive, before)), 60)
            enough = len(clients.answers) + ANSWERS
            wait_until(lambda: len(clients.answers) > enough)
            web.stop()
        log = web.whole_log()
    rows = ledger.check(log)
    report(
        f"{len(clients.answers)} requests answered by {len({pid for pid, _ in clients.answers})} "
        f"workers of two generations, {rows} messages sent, as many rows and signals"
    )
    assert {message_id for _, message_id in clients.answers} <= set(ledger.sent())
    assert ":taskstate." not in log, log
    assert "Traceback" not in log
    assert "NO MERCY" not in log, log


FORK_IN_A_FLUSH = """
import os, sys, threading
import taskstate
from tests.faults import website
from django.db import connections
from django.db.backends.signals import connection_created
from taskstate.writer import lifecycle

lifecycle.FORK_WAIT_SECONDS = 2

class Holder:
    opened = 0
    is_armed = False

    def prepare(self, connection, **kwargs):
        self.opened += 1
        connection.execute_wrappers.append(self.hold)

    def arm(self, *, before):
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.before, self.ended, self.is_armed = before, False, True

    def hold(self, execute, *arguments):
        if not self.is_armed:
            return execute(*arguments)
        self.is_armed = False
        if self.before:
            self.wait()
        result = execute(*arguments)
        if not self.before:
            self.wait()
        self.ended = True
        return result

    def wait(self):
        self.inside.set()
        assert self.go_on.wait(30)

holder = Holder()
connections.databases["default"]["CONN_MAX_AGE"] = None
connection_created.connect(holder.prepare)
rounds = {rounds}
for number in range(rounds):
    # The last two flushes seem to hang, so that a fork does not wait for their end.
    too_long = number >= rounds - 2
    # To SQLite, a lock that is held at a fork belongs to the child as well, for good.
    holder.arm(before=bool(number % 2) or too_long and {is_sqlite})
    website.send()
    assert holder.inside.wait(30)
    if not too_long:
        threading.Timer(0.1, holder.go_on.set).start()
    pid = os.fork()
    if pid == 0:
        assert holder.ended != too_long, "a fork has to wait for a flush, for a while"
        website.send(3)
        assert taskstate.stats().transitions <= 3
        sys.exit()
    holder.go_on.set()
    website.send(3)
    assert os.waitpid(pid, 0)[1] == 0
assert taskstate.flush(30)
assert taskstate.stats().failed_flushes == 0, taskstate.stats()
assert holder.opened == 1, "the parent's connection was broken"
"""


def test_forks_in_the_middle_of_a_flush(database, ledger, report):
    """The fork waits for the flush, but not for ever; the parent's connection outlives it all."""
    rounds = 8
    run_script(
        FORK_IN_A_FLUSH.format(rounds=rounds, is_sqlite=database == "default"),
        environment(database, **ledger.environment),
    )
    rows = ledger.check()
    report(
        f"{rounds} forks during a flush, 2 of them before its end: {rows} messages of parent and "
        "children, as many rows and signals, and one connection of the parent's"
    )
    assert rows == rounds * 7


POOL = """
import multiprocessing, threading
from tests.faults import website

def keep_sending():
    while not ends.wait(0.002):
        website.send()

ends = threading.Event()
parent = threading.Thread(target=keep_sending)
parent.start()
pool = multiprocessing.get_context("{method}").Pool(2, maxtasksperchild=5)
pool.map(website.send, [20] * 20, chunksize=1)
pool.close()
pool.join()
ends.set()
parent.join()
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_pool_of_processes(method, server_database, ledger, report):
    """Its processes are replaced again and again, while a thread of the parent goes on sending."""
    run_script(POOL.replace("{method}", method), environment(server_database, **ledger.environment))
    rows = ledger.check()
    report(f"400 messages of 4 children and {rows - 400} of their parent: as many rows and signals")
    assert rows > 400


# After this, what is tracked stays pending until the process ends.
PENDING = """
import os, signal, sys, threading, time
import taskstate
from taskstate.writer.pacing import BURST
from tests.faults import website
for number in range(BURST):
    website.send()
    while taskstate.stats().rows_written <= number:
        time.sleep(0.01)
website.send(40)
while taskstate.stats().pending != 40:
    time.sleep(0.01)
"""
#: How a process ends, and its exit status.
ENDS = {
    "the end of the script": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "sys.exit in a handler of SIGTERM": (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))\n"
        "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
        4,
    ),
    "an exception": ("raise KeyError", 1),
    "SIGINT": ("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", -signal.SIGINT),
    "the end of another thread": (
        "threading.Thread(target=lambda: [time.sleep(0.5), website.send(10)]).start()",
        0,
    ),
}
#: How it ends without Python's exit handlers.
DEATHS = {
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", -signal.SIGTERM),
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    "os._exit": ("os._exit(5)", 5),
}


def test_every_way_to_end(server_database, report):
    """All is written at exit; where Python runs no exit handlers, what was pending is lost, and no
    more than that."""
    with contextlib.ExitStack() as stack:
        running = []
        for name, (code, status) in {**ENDS, **DEATHS}.items():
            ledger = stack.enter_context(Ledger())
            env = environment(
                server_database, **ledger.environment, DEMO_TASKSTATE='{"FLUSH_INTERVAL": 3600}'
            )
            running.append((name, status, ledger, start_script(PENDING + code, env)))
        ended = [(*rest, script, end_script(script)[1]) for *rest, script in running]
        for name, status, ledger, script, errors in ended:
            assert script.returncode == status, (name, errors)
            sent, rows = set(ledger.sent()), ledger.rows()
            report(f"{name}: {len(sent)} messages sent, {len(sent - rows)} without a row")
            assert len(sent - rows) == (40 if name in DEATHS else 0), (name, errors)
            told = ledger.lines("signals")
            assert sorted(told) == sorted(f"{message_id} enqueued" for message_id in rows), name


def unacknowledged(queue):
    """Return the ids of the messages that Redis still holds for a queue."""
    with contextlib.closing(redis.Redis.from_url(servers.url("redis"))) as client:
        messages = client.hvals(f"dramatiq:{queue}.msgs")
    return {json.loads(message)["message_id"] for message in messages}


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_to_a_worker(sign, server_database, report):
    """It ends in the middle of its work, and yet writes what it knows: a row is done if and only if
    the message was acknowledged.  Another worker does the rest."""
    slow = {"DEMO_WORK_SECONDS": "1", "DEMO_TASKSTATE": '{"FLUSH_INTERVAL": 3600}'}
    with queue_of_its_own("redis") as queue_env:
        queue = queue_env["DEMO_QUEUE"]
        env = environment(server_database, **queue_env)
        send(env, succeed=30)
        with Rundramatiq({**env, **slow}, "--processes", "1", "--threads", "2") as worker:
            # By now it has used up what a quiet worker writes at once.
            wait_until(lambda: len(unacknowledged(queue)) <= 14)
            written = Task.objects.finished().count()
            for log in ("Stopping worker process", "Killing worker process"):
                worker.process.send_signal(sign)
                wait_until(lambda: log in worker.output())
            worker.process.wait(LIMIT_SECONDS)
            worker.exit_status = 1
            output = worker.output()
        left = unacknowledged(queue)
        done = {str(task.pk) for task in Task.objects.finished()}
        report(f"{len(done)} of 30 done and acknowledged, {len(done) - written} written at the end")
        assert Task.objects.count() == 30
        assert len(done) == 30 - len(left)
        assert not done & left
        assert len(done) > written
        assert "taskstate" not in output
        with Rundramatiq(env, "--processes", "1", "--threads", "2"):
            wait_until(lambda: Task.objects.filter(status="done").count() == 30)
