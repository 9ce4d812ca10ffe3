"""Values on their way to the columns: cheap to collect, and made fit without a surprise."""

import pytest

from taskstate import fitting
from taskstate.conf import Config
from taskstate.fitting import Fitter
from taskstate.transitions import Status, Transition, pack_rank
from tests.factories import START, make_id
from tests.test_middleware import make_message

PLAIN = {"user_pk": 7, "description": "Export", "model_name": "Report", "app_name": "shop"}
ODD = [
    {"description": ["a"]},
    {"description": None},
    {"description": "x" * 2000},
    {"model_name": {"a": 1}},
    {"app_name": 7},
    {"user_pk": [1]},
    {"user_pk": "x" * 10_000},
    {"user_pk": 1.5},
]


@pytest.fixture
def fitter():
    return Fitter()


def transition(fields, status=Status.RUNNING):
    return Transition(pack_rank(status, 1, START), 0, None, 1.0, fields)


def test_a_plain_message_waits_as_it_is(fitter):
    """The hook makes nothing fit: that is what makes it cheap."""
    fields = fitter.collect(make_message(PLAIN, queue_name="slow.DQ"), PLAIN)

    assert fields[2:8] == (7, "act", "slow.DQ", "Export", "Report", "shop")
    assert fitter.fit(transition(fields)).fields.queue_name == "slow"


@pytest.mark.parametrize("for_state", ODD, ids=lambda for_state: str(for_state)[:30])
def test_what_could_change_or_is_large_is_made_fit_at_once(for_state, fitter):
    """Nothing of the caller's is kept by reference."""
    fields = fitter.collect(make_message(for_state, queue_name="slow.DQ"), for_state)
    text = str(fields)
    for value in for_state.values():
        if isinstance(value, (list, dict)):
            value.clear()

    assert fields.queue_name == "slow"
    assert str(fields) == text
    assert all(len(part) <= 300 for part in fields if isinstance(part, str))
    assert fitter.fit(transition(fields)).fields == fields


def test_an_odd_message_that_can_not_be_tracked_is_not_pushed(fitter, caplog):
    """It is known in the hook already."""
    message = make_message({"description": ["a"]}, message_id="job-7")

    assert fitter.collect(message, {"description": ["a"]}) is None
    assert "'job-7' is no UUID" in caplog.text


def test_fitting_never_raises(fitter, monkeypatch, caplog):
    """The writer has others to look after; this one is named."""
    fields = fitter.collect(make_message(PLAIN, message_id=make_id(5)), PLAIN)
    monkeypatch.setattr(fitting.values, "clean_time", lambda value: 1 / 0)

    assert fitter.fit(transition(fields)) is None
    assert f"Message {make_id(5)} of actor act could not be tracked" in caplog.text


class Textless:
    def __str__(self):
        raise ZeroDivisionError


@pytest.mark.parametrize("key", ["description", "model_name", "app_name"])
def test_a_value_without_a_text_costs_the_task_its_state_alone(key, fitter, caplog):
    """It is tracked all the same, and the log says once what is wrong."""
    message = make_message({}, message_id=make_id(5))
    for _ in range(2):
        fields = fitter.collect(message, {"user_pk": 1, "description": "a", key: Textless()})

        assert fields.message_id == make_id(5)
        assert fields[2:8] == (None, "act", "default", "", "", "")

    assert caplog.text.count("of actor act is tracked without its for_state") == 1
    assert f"message {make_id(5)} holds a value in it" in caplog.text
    assert "can't be made text (ZeroDivisionError)" in caplog.text


def test_names_are_shared(fitter):
    """Tasks that wait by the hundred thousand hold few different ones."""
    facts = []
    for number in range(2):
        actor_name = f"{number // 2}actor"  # Equal, and not the same object.
        message = make_message(PLAIN, actor_name=actor_name, message_id=make_id(number))
        facts.append(fitter.fit(transition(fitter.collect(message, PLAIN))))

    assert facts[0].fields.actor_name is facts[1].fields.actor_name


def test_a_message_that_can_not_be_encoded_is_tracked(caplog):
    """Some middleware keeps its own objects in the options while a message is processed."""
    fitter = Fitter(lambda: Config(store_message=True))
    message = make_message({}, message_id=make_id(5), options={"span": object()})
    for _ in range(2):
        fields = fitter.collect(message, {"user_pk": 1})
        assert (fields.user_pk, fields.stored_message) == (1, None)
    assert caplog.text.count("it can't be encoded (TypeError)") == 1
