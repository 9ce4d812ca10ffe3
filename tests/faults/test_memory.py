"""Messages with large texts while the database is away: they take no more memory than they may."""

import json

import pytest

from taskstate.models import Task
from tests.faults.options import NIGHTLY
from tests.faults.proxy import Proxy
from tests.support.limits import LIMIT_SECONDS
from tests.support.processes import LiveProcess, environment

pytestmark = pytest.mark.timeout(1200)

MIB = 1024**2
BOUND = 32 * MIB
#: Each takes about 115 kB while it waits: without a bound, more than 2 GiB.
MESSAGES = 100_000 if NIGHTLY else 20_000
PORTION = 500
WARM_UP = 8
#: What a batch takes while it is written, and what the allocator keeps for itself.
ALLOWED_BYTES = 16 * MIB
#: Messages that were in the middle of their run when a write began to hang: what came of them may
#: have been dropped, while their start was in the writer's hands.
THREADS = 4


@pytest.mark.parametrize("server", ["postgres"], indirect=True)
@pytest.mark.parametrize("way", ["refused", "stalled"])
def test_large_texts_in_an_outage(way, drilled, server, report):
    """The oldest are dropped and counted, two records say so; the newest are written when the
    database is back, and their memory is free again."""
    with Proxy(server.port) as proxy:
        url = server.url("drill", proxy.port)
        env = environment(
            "postgres",
            DATABASE=url,
            DEMO_DATABASE=json.dumps({"CONN_MAX_AGE": None}),
            DEMO_TASKSTATE=json.dumps({"KEEP_MESSAGE": True, "MAX_PENDING_BYTES": BOUND}),
        )
        with LiveProcess("tests.faults.heavy", [], env) as process:
            sent = process.order("work", first=0, number=WARM_UP)
            assert process.order("flush", timeout=LIMIT_SECONDS)
            base = process.order("resident")
            (proxy.cut if way == "refused" else proxy.stall)()
            peak = most = 0
            for first in range(WARM_UP, MESSAGES, PORTION):
                sent += process.order("work", first=first, number=PORTION)
                peak = max(peak, process.order("resident") - base)
                most = max(most, process.order("stats")["pending_bytes"])
            before = process.order("stats")

            proxy.mend()
            assert process.order("flush", timeout=LIMIT_SECONDS)
            stats = process.order("stats")
            left = process.order("resident") - base
            records = process.order("logged")

    rows = {str(pk): status for pk, status in Task.objects.values_list("pk", "status")}
    unfinished = sum(status not in {"done", "failed"} for status in rows.values())
    written = [rows.get(message_id) for message_id in sent]
    ends = [("done", "failed")[number % 2] for number in range(len(sent))]
    are_right = [row == end for row, end in zip(written, ends)]
    kept = are_right[::-1].index(False)
    report(
        f"{way}: {MESSAGES:,} messages with a bound of {BOUND // MIB} MiB: counted"
        f" {most / MIB:.1f} MiB, resident {peak / MIB:.1f} more at most, {left / MIB:.1f} after;"
        f" {before['pending']:,} pending, {stats['dropped']:,} dropped, {len(rows):,} rows, the"
        f" newest {kept:,} messages among them, {unfinished} without an end"
    )
    assert most <= BOUND * 1.5 + MIB
    assert peak < BOUND * 1.5 + ALLOWED_BYTES
    assert left < ALLOWED_BYTES
    assert unfinished <= THREADS
    assert (stats["pending"], stats["pending_bytes"]) == (0, 0)
    assert kept > BOUND // 2 // 400_000
    dropping = [message for _, message in records if "dropped" in message]
    assert len(dropping) == 2
    assert "MAX_PENDING_BYTES" in dropping[0]
    assert f"{stats['dropped']:,} states were dropped" in dropping[1]
    assert rows.keys() >= set(sent[:WARM_UP])
