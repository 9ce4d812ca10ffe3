"""Where a ``for_state`` is found, and which of its keys mean something."""

import functools
import gc

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker

from taskstate import middleware as module
from taskstate.middleware import StateMiddleware
from taskstate.writer.transition_queue import TransitionQueue
from tests.support.for_state import FIELDS, declare
from tests.support.harness import Workers, make_broker, task_of


@pytest.fixture
def pushed(monkeypatch):
    """The fields that the hooks push, kept from the writer."""
    fields = []
    collector = module.FieldCollector()

    def push(writer, transition):
        (normalized,) = collector.normalize([transition])
        fields.append({name: getattr(normalized.fields, name) for name in FIELDS})

    monkeypatch.setattr(TransitionQueue, "push", push)
    monkeypatch.setattr(module.SynchronousWriter, "push", push)
    return fields


def descriptions(pushed):
    return [fields["description"] for fields in pushed]


# Two brokers.


def test_actors_of_one_name_on_two_brokers(pushed):
    """Each is tracked as its own broker declares it, though they share a middleware."""
    state = StateMiddleware()
    one, two, three = (StubBroker(middleware=[state]) for _ in range(3))
    declare(one, for_state={"description": "one"}).send()
    declare(two, for_state={"description": "two"}).send()
    declare(three).send()
    one.actors["act"].send()

    assert descriptions(pushed) == ["one", "two", "one"]


def test_a_middleware_keeps_no_broker_alive():
    """What it knows of one goes with it: the next may get its id."""
    state = StateMiddleware()
    declare(StubBroker(middleware=[state]), for_state={})
    gc.collect()

    assert state._actors.by_name == {"act": {}}
    assert state._actors._brokers == set()


def test_the_last_declaration_counts(pushed):
    """Dramatiq lets a broker's actor be declared again, with ``for_state`` or without."""
    broker = StubBroker(middleware=[StateMiddleware()])
    declare(broker, for_state={"description": "first"})
    broker.actors.clear()
    declare(broker).send()

    assert pushed == []


# By position.


def plain(report_id, for_state=None):
    """An actor of the documentation."""


async def asynchronous(report_id, for_state=None):
    """Another."""


class ByClass(dramatiq.GenericActor):
    class Meta:
        abstract = True

    def perform(self, report_id, for_state=None):
        """And another."""


def second(for_state, /, report_id=None):
    """It takes the state first."""


def by_keyword(report_id, *, for_state=None):
    """It can't be passed by position."""


def rest(report_id, *for_state):
    """It is not a parameter of its own."""


@pytest.fixture
def broker():
    return StubBroker(middleware=[StateMiddleware()])


def declare_class(broker):
    class Act(ByClass):
        class Meta:
            actor = staticmethod(functools.partial(dramatiq.actor, broker=broker, actor_name="act"))

    return Act


def test_a_for_state_may_be_passed_by_position(broker, pushed):
    """As with any argument of Python's: functions, coroutines, and classes."""
    for number, fn in enumerate([plain, asynchronous]):
        actor = declare(broker, f"act{number}", fn)
        actor.send(7, {"user_pk": 1})
        actor.send(7)
        actor.send()
        actor.send(7, None)
        actor.send(7, "text")
    declare_class(broker).send(7, {"user_pk": 1})
    declare(broker, "first", second).send({"user_pk": 1})

    names = [fields["actor_name"] for fields in pushed]
    assert names == ["act0", "act1", "act", "first"]
    assert {fields["user_pk"] for fields in pushed} == {1}


@pytest.mark.parametrize("fn", [by_keyword, rest, lambda *args, **kwargs: None, dict])
def test_what_is_not_at_that_place_is_no_for_state(fn, broker, pushed):
    """Any other dictionary is an argument of the actor's own."""
    declare(broker, fn=fn).send(7, {"user_pk": 1})

    assert pushed == []


def test_the_actors_own_is_merged_with_one_that_is_passed_by_position(broker, pushed):
    """And one that is passed by keyword wins over both, however wrong that call is."""
    actor = declare(broker, fn=plain, for_state={"user_pk": 1, "description": "own"})
    actor.send(7, {"user_pk": 2})
    actor.send(7, "text")
    actor.send(7, {"user_pk": 2}, for_state={"user_pk": 3})

    assert [(fields["user_pk"], fields["description"]) for fields in pushed] == [
        (2, "own"),
        (1, "own"),
        (3, "own"),
    ]


def test_a_worker_finds_it_by_position_as_well(sqlite):
    """Its rows go on to the end."""
    broker = make_broker()
    message = declare(broker, fn=plain).send(7, {"description": "by position"})
    with Workers(broker) as workers:
        workers.finish()

    task = task_of(message)
    assert (task.status, task.description) == ("done", "by position")


# Unknown keys.


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("user", "user_pk"),
        ("user_id", "user_pk"),
        ("desc", "description"),
        ("Description", "description"),
        ("model", "model_name"),
        ("app", "app_name"),
        ("meta", "metadata"),
        ("data", "metadata"),
    ],
)
def test_a_warning_names_an_unknown_key_and_what_may_be_meant(key, meant, broker, pushed, caplog):
    """Once per actor, and the task is tracked."""
    for name in ("one", "one", "two"):
        actor = declare(broker, name) if name not in broker.actors else broker.actors[name]
        actor.send(for_state={"user_pk": 1, key: "x"})

    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert f"for_state of actor one has the key {key!r}, which is ignored." in caplog.text
    assert f"Did you mean {meant!r}? The keys are app_name, description, metadata," in caplog.text
    assert "data of your own goes into 'metadata'" in caplog.text
    assert len(pushed) == 3


@pytest.mark.parametrize("key", ["", "x" * 10_000, "limit", 7, None])
def test_a_key_that_resembles_none(key, broker, pushed, caplog):
    """It is shortened, and nothing is suggested."""
    declare(broker).send(for_state={key: "x"})

    (record,) = caplog.records
    assert "Did you mean" not in record.message
    assert len(record.message) < 400
    assert len(pushed) == 1


def test_the_keys_of_an_actors_own_for_state_are_looked_at_as_well(broker, pushed, caplog):
    """When its first message is sent."""
    declare(broker, for_state={"desc": "x"}).send()

    assert "Did you mean 'description'?" in caplog.text


def test_known_keys_are_not_warned_of(broker, pushed, caplog):
    """Whatever else is wrong with their values."""
    state = {"user_pk": 1, "description": "x", "app_name": "y", "model_name": "z"}
    declare(broker).send(for_state={**state, "metadata": {"user": 1}})

    assert caplog.records == []
