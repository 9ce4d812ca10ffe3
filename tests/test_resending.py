"""``send_again``: a new message with the actor and the arguments of a stored one."""

import json

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker
from dramatiq.encoder import PickleEncoder
from dramatiq.middleware import Retries

import taskstate
from taskstate import BrokerUnavailableError, SendAgainError, send_again
from taskstate.middleware import StateMiddleware
from taskstate.models import Status, Task
from tests.factories import make_id
from tests.harness import Workers, task_of


class Away(StubBroker):
    """A broker that takes nothing."""

    def enqueue(self, message, *, delay=None):
        raise OSError("no route to amqp://user:secret@host")


@pytest.fixture
def broker(sqlite):
    """The broker of this process, with one actor."""
    yield from use_broker(StubBroker())


@pytest.fixture
def broker_away(sqlite):
    yield from use_broker(Away())


def use_broker(broker):
    broker.middleware.clear()
    broker.add_middleware(Retries(max_retries=1, min_backoff=1, max_backoff=1))
    broker.add_middleware(StateMiddleware())
    before = dramatiq.get_broker()
    dramatiq.set_broker(broker)
    dramatiq.actor(lambda *args, **kwargs: None, actor_name="act", queue_name="q", broker=broker)
    yield broker
    dramatiq.set_broker(before)
    broker.close()


def stored(**values):
    fields = {
        "queue_name": "q",
        "actor_name": "act",
        "args": [1, "Grüße"],
        "kwargs": {"for_state": {"description": "again"}},
        "options": {},
        "message_id": make_id(1),
        "message_timestamp": 1,
    }
    return json.dumps({**fields, **values})


def make_task(status=Status.FAILED, text=None, **values):
    return Task(message_id=make_id(1), status=status, stored_message=text or stored(**values))


def test_a_task_that_failed_is_sent_again(database, settings):
    """With its arguments, as a message and a task of its own; nothing of the first run sticks."""
    settings.TASKSTATE = {"STORE_MESSAGE": True}
    for broker in use_broker(StubBroker()):
        seen = []

        def fail(*args, for_state):
            seen.append(args)
            if len(seen) < 3:
                raise ValueError("bad")

        actor = dramatiq.actor(fail, broker=broker, actor_name="fail")
        first = actor.send_with_options(args=(1, "Grüße"), kwargs={"for_state": {}}, delay=1)
        with Workers(broker) as workers:
            workers.finish()
            assert task_of(first).status == "failed"
            second = send_again(task_of(first))
            workers.finish()

        assert seen == [(1, "Grüße")] * 3
        assert second.message_id != first.message_id
        again = task_of(second)
        assert (again.status, again.attempt, again.error) == ("done", 0, None)
        assert again.enqueued_at > task_of(first).enqueued_at
        assert again.started_at > task_of(first).finished_at
        assert task_of(first).status == "failed"


def test_options_that_were_asked_for_are_kept(broker):
    """Those of the last run are not: the broker and the middleware set them anew."""
    asked = {"max_retries": 7, "for_state": {"user_pk": 1}, "pipe_target": None}
    run = {
        "eta": 1,
        "redis_message_id": "x",
        "requeue_timestamp": 1,
        "retries": 3,
        "traceback": "x",
        "taskstate_error": "x",
        "taskstate_hop": 8,
        "taskstate_started_at": 1,
        "taskstate_traceback": "x",
    }
    message = send_again(make_task(options={**asked, **run}))

    assert message.options == {**asked, "taskstate_hop": 1}
    assert (message.args, message.queue_name) == ((1, "Grüße"), "q")
    assert message.message_timestamp > 1


@pytest.mark.parametrize("status", list(Status))
def test_no_message_counts_twice_for_its_group(broker, status):
    """Whoever has counted, or may do so yet, leaves the second one none of the group's options."""
    options = {"group_completion_uuid": "x", "group_completion_callbacks": []}
    message = send_again(make_task(status, options=options))

    is_kept = "group_completion_uuid" in message.options
    assert is_kept == (status in {"failed", "skipped"})
    assert is_kept == ("group_completion_callbacks" in message.options)


@pytest.mark.parametrize("queue_name", ["gone", "gone.DQ", "q.DQ"])
def test_a_queue_that_is_gone(broker, queue_name):
    """The actor's takes its place; a delayed message is not delayed again."""
    assert send_again(make_task(queue_name=queue_name)).queue_name == "q"
    assert broker.queues["q"].qsize() == 1


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (Task(), "was not stored"),
        (Task(stored_message=""), "was not stored"),
        (make_task(actor_name="gone"), "doesn't know the actor gone"),
        (make_task(text="{"), "can't be read"),
        (make_task(text="[]"), "can't be read"),
        (make_task(text='{"args": []}'), "can't be read"),
        (make_task(args=5), "can't be read"),
        (make_task(actor_name=["act"]), "can't be read"),
        (make_task(kwargs=[]), "can't be read"),
        (make_task(options=[]), "can't be read"),
        (make_task(queue_name=None), "can't be read"),
        (make_task(text="[" * 100_000), "can't be read"),
    ],
)
def test_it_says_why_it_can_not(broker, task, reason):
    """And sends nothing."""
    with pytest.raises(SendAgainError, match=reason):
        send_again(task)

    assert broker.queues["q"].qsize() == 0


def test_a_broker_that_is_away(broker_away):
    """The text may be shown to people: it names the kind of error, and no address."""
    with pytest.raises(BrokerUnavailableError, match=r"did not take it \(OSError\)") as caught:
        send_again(make_task())

    assert isinstance(caught.value.__cause__, OSError)


def test_nothing_is_unpickled(broker):
    """It would run whatever somebody has written into the table."""
    before = dramatiq.get_encoder()
    dramatiq.set_encoder(PickleEncoder())
    try:
        with pytest.raises(SendAgainError, match="PickleEncoder"):
            send_again(make_task(text="cos\nsystem\n(S'exit 1'\ntR."))
    finally:
        dramatiq.set_encoder(before)


def test_it_is_public():
    """By these names."""
    names = {"BrokerUnavailableError", "SendAgainError", "send_again"}
    assert names <= set(taskstate.__all__)
