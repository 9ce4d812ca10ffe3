"""The demo's recorder: it keeps up with the middleware that it wraps."""

import dramatiq
from django.db.backends.signals import connection_created

from benchmarks.demo.project.recording import RecordingStateMiddleware
from tests.support.harness import Workers, make_broker, task_of


def test_the_recorder_notes_how_a_message_ends(sqlite):
    """The demo's table is made of its notes, and the rows are written all the same."""
    recorder = RecordingStateMiddleware()
    recorder.saved = True  # No report at the end of this process.
    broker = make_broker(state=recorder)

    @dramatiq.actor(broker=broker)
    def succeed(for_state=None):
        pass

    with Workers(broker) as workers:
        message = succeed.send(for_state={})
        workers.finish()
    connection_created.disconnect(recorder._watch_writer)

    statuses = {status for _, status, _ in recorder.transitions}
    assert statuses == {"enqueued", "running", "done"}
    assert task_of(message).status == "done"
