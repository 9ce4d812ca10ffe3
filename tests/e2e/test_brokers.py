"""The brokers of these tests that call fewer hooks, or call them later, do what they are for."""

import dramatiq
import pytest
from dramatiq.middleware import Middleware

from taskstate.models import Task
from tests.support.brokers import AfterOnlyBroker, EagerBroker, EarlyEncodingBroker
from tests.support.harness import Workers, make_broker


class Boom(Exception):
    """What a failing actor raises."""


class Recorder(Middleware):
    """Notes the hooks that are called of enqueueing, running and acknowledging, by their names,
    and marks each message that is enqueued."""

    def __init__(self):
        self.calls = []
        self.marked = []

    def before_enqueue(self, broker, message, delay):
        message.options["mark"] = True

    def before_process_message(self, broker, message):
        self.marked.append("mark" in message.options)

    def __getattribute__(self, name):
        if name.endswith(("_enqueue", "_process_message", "_ack", "_nack")):
            self.calls.append(name)
        return super().__getattribute__(name)


def declare(broker, times=0, **options):
    """Return an actor that fails so many times; ``runs`` counts."""

    def act(for_state=None):
        act.runs += 1
        if act.runs <= times:
            raise Boom

    act.runs = 0
    return dramatiq.actor(act, broker=broker, actor_name="act", **options)


@pytest.mark.parametrize("delay", [None, 0], ids=["direct", "delayed"])
def test_what_is_set_before_a_message_is_enqueued_is_lost(delay, sqlite):
    """Where it was encoded before; it is run and retried as usual."""
    recorder = Recorder()
    broker = make_broker(recorder, broker_class=EarlyEncodingBroker)
    act = declare(broker, times=1)
    message = act.send_with_options(kwargs={"for_state": {}}, delay=delay)
    with Workers(broker) as workers:
        workers.finish()
    assert act.fn.runs == 2
    assert recorder.marked[0] is False
    assert Task.objects.filter(pk=message.message_id).exists()


@pytest.mark.parametrize("times", [0, 1], ids=["ack", "nack"])
def test_hooks_of_acknowledging_are_called_afterward_only(times, sqlite):
    """Whichever of the two it is."""
    recorder = Recorder()
    broker = make_broker(recorder, broker_class=AfterOnlyBroker)
    message = declare(broker, times, throws=Boom).send(for_state={})
    with Workers(broker) as workers:
        workers.finish()
    assert recorder.calls[-1] == ("after_nack" if times else "after_ack")
    assert not {"before_ack", "before_nack"} & set(recorder.calls)
    assert Task.objects.filter(pk=message.message_id).exists()


@pytest.mark.parametrize("fail_fast", [False, True])
def test_an_eager_broker_runs_what_it_is_given(fail_fast, sqlite):
    """No hook of enqueueing is called; a failure that its sender gets ends with an ack."""
    recorder = Recorder()
    broker = make_broker(recorder, broker_class=EagerBroker)
    broker.fail_fast = fail_fast
    act = declare(broker, 1, throws=Boom)
    if fail_fast:
        with pytest.raises(Boom):
            act.send(for_state={})
        expected = ["before_process_message", "after_ack"]
    else:
        act.send(for_state={})
        expected = ["before_process_message", "after_process_message", "after_nack"]
    assert recorder.calls == expected
    assert act.fn.runs == 1
