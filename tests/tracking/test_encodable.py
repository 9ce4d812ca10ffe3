"""What a ``for_state`` may hold beside texts and numbers, and which errors its sender gets."""

import collections
import datetime
import decimal
import enum
import json
import pickle
import re
import uuid

import dramatiq
import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser, Group
from django.db import models
from django.utils import translation
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.encoder import JSONEncoder, PickleEncoder
from dramatiq.middleware import MiddlewareError

from taskstate import middleware as module
from taskstate import set_result
from taskstate.middleware import StateMiddleware
from taskstate.tracking.encodable import ForStateError
from taskstate.transitions.status import Status
from taskstate.writer.transition_queue import TransitionQueue
from tests.support.for_state import FIELDS, declare
from tests.support.harness import Workers, make_broker, task_of
from tests.support.workers import close, queue_of_its_own, waiting

KEY = uuid.UUID(int=7)
DAY = datetime.date(2026, 11, 30)
MOMENT = datetime.datetime(2026, 11, 30, 5, 30, tzinfo=datetime.timezone.utc)

#: Messages were tuples before 1.14: what is known of the caller's dictionaries can't be kept there.
IS_TUPLE = issubclass(dramatiq.Message, tuple)


class Kind(models.TextChoices):
    SALE = "sale", gettext_lazy("Sale")


class Number(enum.IntEnum):
    SEVEN = 7


class Plain(enum.Enum):
    KEY = KEY


def user(pk=7):
    return get_user_model()(pk=pk, username="anna")


@pytest.fixture
def pushed(monkeypatch):
    """The fields that the hooks push, kept from the writer."""
    fields = []
    collector = module.FieldCollector()

    def push(writer, transition):
        (normalized,) = collector.normalize([transition])
        fields.append({name: getattr(normalized.fields, name) for name in (*FIELDS, "metadata")})

    monkeypatch.setattr(TransitionQueue, "push", push)
    monkeypatch.setattr(module.SynchronousWriter, "push", push)
    return fields


@pytest.fixture
def broker():
    return StubBroker(middleware=[StateMiddleware()])


@pytest.fixture
def act(broker):
    return declare(broker)


@pytest.fixture
def use_encoder():
    """Use another encoder in this test."""
    before = dramatiq.get_encoder()
    yield dramatiq.set_encoder
    dramatiq.set_encoder(before)


def sent(broker):
    """Return the ``for_state`` of the message that was sent."""
    data = dramatiq.Message.decode(broker.queues["default"].get_nowait())
    return data.kwargs.get("for_state", data.options.get("for_state"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (KEY, str(KEY)),
        (decimal.Decimal("1.50"), "1.50"),
        (DAY, "2026-11-30"),
        (MOMENT, "2026-11-30T05:30:00+00:00"),
        (datetime.time(5, 30), "05:30:00"),
        (gettext_lazy("Failed"), "Failed"),
        (mark_safe("<b>"), "<b>"),
        (Kind.SALE, "sale"),
        (Kind.SALE.label, "Sale"),
        (Number.SEVEN, 7),
        (Plain.KEY, str(KEY)),
        (SimpleLazyObject(lambda: "lazy"), "lazy"),
        ((1, KEY), [1, str(KEY)]),
        (collections.OrderedDict(a=[{"b": {KEY: DAY}}]), {"a": [{"b": {str(KEY): "2026-11-30"}}]}),
        ({1: [None, True, 1.5]}, {"1": [None, True, 1.5]}),
    ],
)
@pytest.mark.parametrize("key", ["description", "metadata", "other"])
def test_known_kinds_are_replaced(key, value, expected, broker, act, pushed):
    """Under any key, however deep, in whatever way it is sent."""
    for_state = {key: value}
    for send in (
        lambda: act.send(for_state=for_state),
        lambda: act.send_with_options(for_state=for_state),
        lambda: act.send_with_options(kwargs={"for_state": for_state}, delay=0),
    ):
        broker.queues["default"] = broker.queues["default.DQ"] = type(broker.queues["default"])()
        send()

        assert sent(broker) == {key: expected}
    assert for_state[key] is value


def test_a_user_stands_for_its_key(broker, act, pushed):
    """``request.user`` as well, which is lazy; no user if that isn't signed in."""
    users = [user(), SimpleLazyObject(user), SimpleLazyObject(AnonymousUser), AnonymousUser()]
    for each in users:
        act.send(for_state={"user_pk": each})

    assert [sent(broker)["user_pk"] for _ in users] == [7, 7, None, None]
    assert [fields["user_pk"] for fields in pushed] == [7, 7, None, None]


def test_a_text_is_in_the_senders_language(broker, act, pushed):
    """The worker has another."""
    with translation.override("de"):
        act.send(for_state={"description": gettext_lazy("Yes"), "metadata": [gettext_lazy("No")]})

    assert sent(broker) == {"description": "Ja", "metadata": ["Nein"]}


class Strange:
    """Of no known kind."""


def fails():
    raise LookupError("no session")


@pytest.mark.parametrize(
    ("for_state", "error"),
    [
        (
            {"user_pk": Strange()},
            "for_state['user_pk'] of actor 'act' is of type Strange, which can't be encoded. Send "
            "the user, or the user's primary key. Nothing was sent.",
        ),
        (
            {"user_pk": Group(pk=7)},
            "is of type Group, which is not the user model. Send the user, or the user's primary",
        ),
        (
            {"user_pk": user(pk=None)},
            "is of type User, and has no primary key yet. Save it first. Nothing was sent.",
        ),
        (
            {"user_pk": SimpleLazyObject(fails)},
            "which raises LookupError when it is evaluated. Send the user, or",
        ),
        (
            {"description": Group(pk=7)},
            "for_state['description'] of actor 'act' is of type Group, which can't be encoded. "
            "Send its primary key. Nothing was sent.",
        ),
        ({"description": b"x"}, "is of type bytes, which can't be encoded. Send a string."),
        (
            {"metadata": {"reports": [1, {2}]}},
            "for_state['metadata']['reports'][1] of actor 'act' is of type set, which can't be "
            "encoded. Send a list. Nothing was sent.",
        ),
        ({"metadata": {(1, 2): 3}}, "is of type tuple, which can't be a key in JSON. Use strings"),
        ({KEY: 1, "metadata": []}, f"for_state[{KEY!r}] of actor 'act' is of type UUID, which"),
        ({"other": Strange()}, "for_state['other'] of actor 'act' is of type Strange, which can't"),
    ],
)
def test_a_value_of_an_unknown_kind_raises_in_the_sender(for_state, error, broker, act, pushed):
    """A TypeError states the key, the type and what to do, and nothing has happened."""
    for send in (
        lambda: act.send(for_state=for_state),
        lambda: act.send_with_options(for_state=for_state, delay=1),
    ):
        with pytest.raises(TypeError, match=re.escape(error)):
            send()

    assert pushed == []
    assert broker.queues["default"].empty()
    assert broker.queues["default.DQ"].empty()


def test_dramatiq_passes_the_error_to_the_sender():
    """Of what a hook raises, only this; it can be caught by its common name."""
    assert issubclass(ForStateError, MiddlewareError)
    assert issubclass(ForStateError, TypeError)


def test_nothing_of_the_callers_is_changed(broker, act, pushed):
    """The same dictionaries are often sent again, and to other actors."""
    for_state = {"user_pk": user(), "metadata": {"key": KEY}}
    copy = {"user_pk": for_state["user_pk"], "metadata": {"key": KEY}}
    kwargs = {"for_state": for_state}
    message = act.message(for_state=for_state)
    broker.enqueue(message)
    broker.enqueue(message)
    act.send_with_options(kwargs=kwargs)
    act.send_with_options(for_state=for_state)

    assert for_state == copy
    assert kwargs["for_state"] is for_state or IS_TUPLE
    assert message.kwargs["for_state"] == {"user_pk": 7, "metadata": {"key": str(KEY)}}


def test_values_passed_by_position_are_replaced_as_well(broker, pushed):
    """Or the error states what to do, where Dramatiq's messages can't be changed."""
    actor = declare(broker, fn=lambda report, for_state: None, for_state={"description": "own"})
    if IS_TUPLE:
        with pytest.raises(TypeError, match=r"Pass it by keyword, for_state={...}"):
            actor.send(KEY.int, {"user_pk": user()})
        return
    for_state = {"user_pk": user()}
    actor.send(7, for_state)

    data = dramatiq.Message.decode(broker.queues["default"].get_nowait())
    assert data.args == (7, {"user_pk": 7})
    assert for_state == {"user_pk": user()}


def test_the_values_of_an_actors_declaration_are_replaced_for_each_message(broker, pushed):
    """The message carries it as it was where it was sent, in that language."""
    state = {"user_pk": user(), "description": gettext_lazy("Yes"), "metadata": {"key": KEY}}
    actor = declare(broker, for_state=state)
    for language in ("en", "de"):
        with translation.override(language):
            actor.send()

    assert [sent(broker)["description"] for _ in range(2)] == ["Yes", "Ja"]
    assert [fields["description"] for fields in pushed] == ["Yes", "Ja"]
    assert {fields["user_pk"] for fields in pushed} == {7}
    assert json.loads(pushed[0]["metadata"]) == {"key": str(KEY)}
    assert state["metadata"] == {"key": KEY}


class SetEncoder(JSONEncoder):
    """A project's own, which takes sets and dates."""

    def encode(self, data):
        return json.dumps(data, default=sorted).encode()


def test_what_the_projects_encoder_takes_is_no_error(use_encoder, broker, act, pushed):
    """What isn't known to us may be known to it."""
    use_encoder(SetEncoder())
    act.send(for_state={"metadata": {"numbers": {2, 1}}, "other": {4, 3}})

    assert sent(broker) == {"metadata": {"numbers": [1, 2]}, "other": [3, 4]}


def test_what_pickle_takes_stays_the_actors(use_encoder, broker, act, pushed):
    """Our own keys are replaced nevertheless, since a whole user does not belong in the broker."""
    use_encoder(PickleEncoder())
    act.send(for_state={"user_pk": user(), "other": KEY, "description": gettext_lazy("Yes")})

    found = pickle.loads(broker.queues["default"].get_nowait())["kwargs"]["for_state"]
    assert found == {"user_pk": 7, "other": KEY, "description": "Yes"}
    assert type(found["description"]) is str


def test_a_value_that_contains_itself_is_left_to_the_encoder(act, pushed):
    """It raises an error of its own."""
    for others in ([], [KEY]):
        circle = []
        circle += [circle, *others, circle]
        with pytest.raises(ValueError, match="Circular"):
            act.send(for_state={"metadata": circle})


def connect(kind, url):
    """Return a real broker that sends at once."""
    if kind == "redis":
        return RedisBroker(url=url, middleware=[StateMiddleware()])
    return RabbitmqBroker(url=url, confirm_delivery=True, middleware=[StateMiddleware()])


@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
def test_values_are_replaced_or_rejected_on_each_broker(kind, pushed):
    """A message with a value that cannot be encoded is not sent; one with replaced values is."""
    with queue_of_its_own(kind) as env:
        broker = connect(kind, env["BROKER"])
        act = declare(broker, queue_name=env["DEMO_QUEUE"])
        act.send(for_state={"user_pk": user()})
        with pytest.raises(TypeError, match="is of type Strange"):
            act.send(for_state={"user_pk": Strange()})
        found = waiting(kind, env["DEMO_QUEUE"])
        close(broker)

    assert (found, [fields["user_pk"] for fields in pushed]) == (1, [7])


def test_replaced_values_arrive_at_the_worker(sqlite):
    """And in the row."""

    def keep(for_state):
        set_result(for_state)

    broker = make_broker()
    message = declare(broker, fn=keep).send(for_state={"user_pk": user(), "metadata": {"key": KEY}})
    with Workers(broker) as workers:
        workers.finish()

    task = task_of(message)
    assert (task.status, task.user_id, task.metadata) == (Status.DONE, 7, {"key": str(KEY)})
    assert task.result == {"user_pk": 7, "metadata": {"key": str(KEY)}}


@pytest.mark.parametrize("place", ["second", "callback"])
def test_values_of_the_messages_that_follow_are_replaced_as_well(broker, act, pushed, place):
    """They are encoded inside of the first one."""
    state = {"user_pk": user(), "metadata": {"key": KEY}}
    first, second = act.message(for_state={}), act.message(for_state=state)
    if place == "second":
        dramatiq.pipeline([first, second], broker=broker).run()
    else:
        first.options["group_completion_callbacks"] = [second.asdict()]
        broker.enqueue(first)
    options = dramatiq.Message.decode(broker.queues["default"].get_nowait()).options
    found = options.get("pipe_target") or options["group_completion_callbacks"][0]

    assert found["kwargs"] == {"for_state": {"user_pk": 7, "metadata": {"key": str(KEY)}}}
    assert state == {"user_pk": user(), "metadata": {"key": KEY}}


def test_a_value_of_a_message_that_follows_may_raise(broker, act):
    """The error states the key, the type and what to do, and nothing is sent."""
    messages = act.message(for_state={}), act.message(for_state={"description": object()})
    with pytest.raises(
        TypeError, match=r"for_state\['description'\].*of type object.*Send a string"
    ):
        dramatiq.pipeline(messages, broker=broker).run()

    assert broker.queues["default"].empty()
