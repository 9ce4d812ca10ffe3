"""Which changes are announced, and when."""

import threading
import traceback

import pytest

from taskstate.conf import Config
from taskstate.transitions.status import Status
from tests.support.factories import make_id


def test_changes_are_announced_after_their_commit(bench):
    """Receivers see the committed rows, each with all statuses that were merged."""
    seen = []
    bench.writer._cycle.announcer._announce = lambda change: seen.append(
        (len(bench.store.batches), change.pending.statuses)
    )
    bench.push(1)
    bench.push(1, status=Status.RUNNING)
    bench.writer._cycle.step()

    assert seen == [(1, (Status.ENQUEUED, Status.RUNNING))]


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_no_change_is_lost_if_a_receiver_raises(error, bench, caplog):
    """The rest of the batch is written and announced, and the thread continues."""
    received = []

    def raise_once(change):
        received.append(change.pending.latest.message_id)
        if len(received) == 1:
            raise error

    bench.writer._cycle.announcer._announce = raise_once
    bench.store.poison = {make_id(9)}
    bench.push(*range(25))

    assert bench.writer._cycle.step() is None

    assert len(bench.store.committed) == len(received) == 24
    assert "A receiver of task_changed failed" in caplog.text
    assert bench.writer.stats().failed_flushes == 0


def test_receivers_that_flush_are_not_called_recursively(bench):
    """With many batches pending, as after an outage, each is written and announced once."""
    bench.config = Config(max_batch_size=1)
    depths = []

    def receive(change):
        depths.append(sum(1 for _ in traceback.walk_stack(None)))
        assert bench.writer.flush(0)

    bench.writer.thread._writing_thread_id = threading.get_ident()
    bench.writer._cycle.announcer._announce = receive
    bench.push(*range(300))
    assert bench.writer._cycle.step() is None

    assert len(depths) == len(bench.store.batches) == 300
    assert len(set(depths)) == 1
    assert all(bench.store.batches)
