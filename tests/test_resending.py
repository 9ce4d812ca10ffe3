"""``resend``: a new message with the actor and the arguments of a stored one."""

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker
from dramatiq.encoder import JSONEncoder, PickleEncoder

import taskstate
from taskstate import BrokerUnavailableError, ResendError, resend
from taskstate.models import Status, Task
from tests.support.factories import make_id
from tests.support.harness import Workers, task_of
from tests.support.resending import Away, stored, use_broker


@pytest.fixture
def broker(one_database):
    """The broker of this process, with one actor."""
    yield from use_broker(StubBroker())


@pytest.fixture
def broker_away(one_database):
    yield from use_broker(Away())


def make_task(status=Status.FAILED, text=None, **values):
    text = text or stored(**values)
    return Task(message_id=make_id(1), status=status, stamp=8, stored_message=text)


def test_a_task_that_failed_is_sent_again(database, settings):
    """With its arguments, as a message and a task of its own; nothing of the first run sticks."""
    settings.TASKSTATE = {"KEEP_MESSAGE": True}
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
            second = resend(task_of(first))
            workers.finish()

        assert seen == [(1, "Grüße")] * 3
        assert second.message_id != first.message_id
        again = task_of(second)
        assert (again.status, again.attempt, again.error) == ("done", 1, None)
        assert again.enqueued_at > task_of(first).enqueued_at
        assert again.started_at > task_of(first).finished_at
        assert task_of(first).status == "failed"


def test_options_that_were_asked_for_are_kept(broker):
    """Those of the last run are not: the broker and the middleware set them again."""
    asked = {"max_retries": 7, "for_state": {"user_pk": 1}, "pipe_target": None}
    run = {
        "eta": 1,
        "redis_message_id": "x",
        "requeue_timestamp": 1,
        "retries": 3,
        "traceback": "x",
        "taskstate_error": "x",
        "taskstate_stamp": 8,
        "taskstate_started_at": 1,
        "taskstate_traceback": "x",
    }
    message = resend(make_task(options={**asked, **run}))

    new = message.options.pop("taskstate_stamp")
    assert message.options == asked
    assert new[0] >= message.message_timestamp
    assert (message.args, message.queue_name) == ((1, "Grüße"), "q")
    assert message.message_timestamp > 1


@pytest.mark.parametrize("status", list(Status))
def test_no_message_counts_twice_for_its_group(broker, status):
    """The new message has none of the group's options, whether the first one was counted or not."""
    options = {"group_completion_uuid": "x", "group_completion_callbacks": []}
    message = resend(make_task(status, options=options))

    is_kept = "group_completion_uuid" in message.options
    assert is_kept == (status in {"failed", "skipped"})
    assert is_kept == ("group_completion_callbacks" in message.options)


def test_a_pipeline_that_is_nested_deeper_than_python_may_go(broker):
    """It is sent, or the error is one that is documented."""
    text = stored(options={})
    for _ in range(1_500):
        text = text.replace('"options": {}', '"options": {"pipe_target": {"options": {}}}')
    try:
        resend(make_task(text=text))
    except ResendError:
        assert broker.queues["q"].qsize() == 0
    else:
        assert broker.queues["q"].qsize() == 1


@pytest.mark.parametrize("queue_name", ["gone", "gone.DQ", "q.DQ"])
def test_a_queue_that_is_gone(broker, queue_name):
    """The actor's takes its place; a delayed message is not delayed again."""
    assert resend(make_task(queue_name=queue_name)).queue_name == "q"
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
def test_an_error_states_why_a_task_can_not_be_resent(broker, task, reason):
    """Nothing is sent."""
    with pytest.raises(ResendError, match=reason):
        resend(task)

    assert broker.queues["q"].qsize() == 0


def test_a_broker_that_is_away(broker_away):
    """The text may be shown to people: it names the kind of error, and no address."""
    with pytest.raises(
        BrokerUnavailableError, match=r"did not accept the message \(OSError\)"
    ) as caught:
        resend(make_task())

    assert isinstance(caught.value.__cause__, OSError)


class OwnEncoder(JSONEncoder):
    """A subclass may read in a way of its own."""


@pytest.fixture
def use_encoder():
    """A function that sets Dramatiq's encoder, until the test ends."""
    before = dramatiq.get_encoder()
    yield dramatiq.set_encoder
    dramatiq.set_encoder(before)


@pytest.mark.parametrize("encoder", [PickleEncoder(), OwnEncoder()])
def test_no_encoder_is_trusted_but_that_of_dramatiq(broker, use_encoder, encoder):
    """Another one may run code from the table; the error names it and states what to do."""
    use_encoder(encoder)
    with pytest.raises(ResendError, match=r"TASKSTATE\['TRUSTED_ENCODERS'\]") as caught:
        resend(make_task(text="cos\nsystem\n(S'exit 1'\ntR."))

    name = f"{type(encoder).__module__}.{type(encoder).__name__}"
    assert f"encoder is {name}, which" in str(caught.value)


def test_an_encoder_that_the_site_trusts(broker, use_encoder, settings, caplog):
    """By its dotted path; one that can't be imported is logged, and doesn't count."""
    path = f"{OwnEncoder.__module__}.OwnEncoder"
    use_encoder(OwnEncoder())
    settings.TASKSTATE = {"TRUSTED_ENCODERS": ["nowhere.Encoder", path]}
    assert resend(make_task()).args == (1, "Grüße")
    assert "'nowhere.Encoder', which can't be imported" in caplog.text
    settings.TASKSTATE = {"TRUSTED_ENCODERS": ["nowhere.Encoder"]}
    with pytest.raises(ResendError, match="OwnEncoder"):
        resend(make_task())


def test_the_reason_can_be_shown_on_a_page(broker):
    """JSON may hold half of a surrogate pair, which no page can."""
    with pytest.raises(ResendError, match="the actor x") as caught:
        resend(make_task(actor_name="x\ud800\0"))

    assert str(caught.value).encode()


def test_resend_is_public():
    """By these names."""
    names = {"BrokerUnavailableError", "ResendError", "resend"}
    assert names <= set(taskstate.__all__)
