"""Hooks called in any order with any messages, and their rows compared."""

import logging

from dramatiq.brokers.stub import StubBroker
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from taskstate.models import Task, user_key
from tests.faults import lives
from tests.support.hooks import alone

#: Mostly lives, whose rows can be compared, among messages that make no sense.
SEQUENCES = st.lists(st.one_of(lives.lives, lives.chaos), min_size=4, max_size=20)


class Log(logging.Handler):
    """Formats every record, and lets an error in that be known."""

    def emit(self, record):
        logging.Formatter().format(record)


class Fuzz:
    """Lets messages live, and compares their rows; it counts what it has tried."""

    def __init__(self, store):
        self.broker = StubBroker(middleware=[])
        # A step of the writer is taken by ``_try``, or by those who wait.
        self.states = {waits: alone(store=store, flush_before_ack=waits) for waits in (False, True)}
        self.examples = self.sequences = self.rows = 0

    def make_check(self, **settings):
        """Return the function that tries examples: Hypothesis's, with these settings."""

        @hypothesis_settings(
            deadline=None, database=None, suppress_health_check=list(HealthCheck), **settings
        )
        @given(waits=st.booleans(), sequences=SEQUENCES)
        def check(waits, sequences):
            self._try(waits, sequences)

        return check

    def _try(self, waits, sequences):
        """Try some sequences of hooks, and look at what comes of them."""
        state = self.states[waits]
        lived = []
        for sequence in sequences:
            if isinstance(sequence, lives.Life):
                message = lives.live(sequence, state, self.broker)
                if message is not None:
                    lived.append((message, sequence))
            else:
                lives.run_wild(sequence, state, self.broker)
        state._writer.thread._step_safely()
        self._check_writer(state)
        for message, life in lived:
            self._check_row(Task.objects.get(pk=message.message_id), life)
        self.examples += 1
        self.sequences += len(sequences)
        self.rows += len(lived)

    def _check_writer(self, state):
        stats = state._writer.stats()
        assert (stats.failed_flushes, stats.rejected, stats.dropped) == (0, 0, 0), stats.last_error
        assert stats.pending == 0
        assert not state._writer._buffer

    def _check_row(self, task, life):
        for_state = life.for_state
        texts = {
            name: lives.expected_text(for_state.get(name, ""), length)
            for name, length in (("description", 255), ("model_name", 100), ("app_name", 100))
        }
        users = lives.expected_users(for_state.get("user_pk"), takes_zero=user_key().takes_zero)
        texts["actor_name"] = lives.expected_text(life.actor_name, 300)
        texts["queue_name"] = lives.expected_text(life.queue_name, 100)
        assert {name: getattr(task, name) for name in texts} == texts
        assert task.user_id in users
        assert (task.status, task.attempt) == (life.status, life.attempt)
        began = life.status in {"running", "done", "failed"} or life.attempt > 1
        assert (task.started_at is not None) == (began and life.status != "skipped")
