"""Values on their way to the columns: cheap to collect, and normalized without a surprise."""

import enum

import pytest

from taskstate.conf import Options
from taskstate.tracking.fields import FieldCollector
from taskstate.transitions import sanitize
from taskstate.transitions.rank import pack_rank
from taskstate.transitions.status import Status
from taskstate.transitions.transition import MessageFields, TaskDetails, Transition
from taskstate.writer.buffer import Buffer
from tests.support.factories import START, make_id
from tests.support.hooks import make_message

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
def collector():
    return FieldCollector()


class Name(str, enum.Enum):
    """Equals a text, but is none."""

    NORTH = "north"


def transition(fields, status=Status.RUNNING):
    return Transition(pack_rank(status, 1, START), 1, None, 1.0, fields)


def test_a_plain_message_is_not_normalized_in_the_hook(collector):
    """That makes the hook cheap."""
    fields = collector.collect(make_message(PLAIN, queue_name="slow.DQ"), PLAIN)

    assert type(fields) is tuple
    assert fields[2:8] == (7, "act", "slow", "Export", "Report", "shop")
    assert collector.normalize([transition(fields)])[0].fields == fields


@pytest.mark.parametrize("for_state", ODD, ids=lambda for_state: str(for_state)[:30])
def test_values_that_may_change_or_are_large_are_normalized_in_the_hook(for_state, collector):
    """Nothing of the caller's is kept by reference."""
    collected = collector.collect(make_message(for_state, queue_name="slow.DQ"), for_state)
    fields = MessageFields(*collected)
    text = str(fields)
    for value in for_state.values():
        if isinstance(value, (list, dict)):
            value.clear()

    assert fields.queue_name == "slow"
    assert str(fields) == text
    assert all(len(part) <= 300 for part in fields if isinstance(part, str))
    assert collector.normalize([transition(fields)])[0].fields == fields


def test_an_odd_message_that_can_not_be_tracked_is_not_pushed(collector, caplog):
    """It is known in the hook already."""
    message = make_message({"description": ["a"]}, message_id="job-7")

    assert collector.collect(message, {"description": ["a"]}) is None
    assert "'job-7' is not a valid UUID" in caplog.text


def test_normalizing_never_raises(collector, monkeypatch, caplog):
    """The writer has others to look after; this one is named."""
    fields = collector.collect(
        make_message(PLAIN, message_id=make_id(5), message_timestamp=-1), PLAIN
    )
    monkeypatch.setattr(sanitize, "clean_time", lambda value: 1 / 0)

    assert collector.normalize([transition(fields)]) == [None]
    assert f"Message {make_id(5)} of actor act could not be tracked" in caplog.text


class Textless:
    def __str__(self):
        raise ZeroDivisionError


@pytest.mark.parametrize("key", ["description", "model_name", "app_name"])
def test_a_value_without_a_text_is_named_in_its_place(key, collector):
    """As in a traceback of Python's; all else is tracked."""
    message = make_message({}, message_id=make_id(5))
    fields = collector.collect(message, {"user_pk": 1, "description": "a", key: Textless()})

    fields = MessageFields(*fields)
    assert (fields.message_id, fields.user_pk) == (make_id(5), 1)
    assert getattr(fields, key) == "<unprintable Textless object>"


def test_names_are_shared(collector):
    """Tasks that wait by the hundred thousand hold few different ones."""
    transitions = []
    for number in range(2):
        actor_name = f"{number // 2}actor"  # Equal, and not the same object.
        message = make_message(PLAIN, actor_name=actor_name, message_id=make_id(number))
        transitions.append(*collector.normalize([transition(collector.collect(message, PLAIN))]))

    assert transitions[0].fields.actor_name is transitions[1].fields.actor_name


def test_a_message_that_can_not_be_encoded_is_tracked(caplog):
    """Some middleware keeps its own objects in the options while a message is processed."""
    collector = FieldCollector(Options(keep_message=True))
    message = make_message({}, message_id=make_id(5), options={"span": object()})
    for _ in range(2):
        fields = MessageFields(*collector.collect(message, {"user_pk": 1}))
        assert (fields.user_pk, fields.stored_message) == (1, None)
    assert caplog.text.count("it can't be encoded (TypeError)") == 1


def test_a_long_name_of_an_actor_is_not_kept(collector, caplog):
    """Of what was warned of already; and no record of the log holds all of it."""
    for number in range(3):
        name = f"{number}" + "x" * 1_000_000
        collector.collect(make_message({}, actor_name=name, message_id="job-7"), {})

    assert len(caplog.records) == 3
    assert all(len(record.message) < 1_000 for record in caplog.records)
    assert all(len(name) <= 300 for _, name in collector._warnings._logged)


NORMAL = MessageFields(make_id(1), START, 7, "act", "slow", "Export", "Report", "shop")


@pytest.mark.parametrize(
    "odd",
    [
        {"message_id": make_id(0xAB).upper()},
        {"message_id": "job-7"},
        {"enqueued_at": -1},
        {"enqueued_at": 2**60},
        {"enqueued_at": True},
        {"enqueued_at": 1.5},
        {"user_pk": None},
        {"user_pk": 2**70},
        {"user_pk": -(2**70)},
        {"user_pk": "8"},
        {"user_pk": True},
        {"description": "Zahlungsübersicht"},
        {"description": "x" * 256},
        {"description": "x\0"},
        {"description": "x\ud800"},
        {"description": None},
        {"description": ["x"]},
        {"tenant": "north"},
        {"tenant": " north"},
        {"tenant": None},
    ],
    ids=str,
)
def test_a_batch_is_normalized_as_each_of_its_transitions_is(odd, collector):
    """A batch is checked column by column, and only if that finds something, row by row."""
    rows = [NORMAL, NORMAL._replace(**odd), NORMAL._replace(message_id=make_id(2))]
    batch = [tuple(transition(tuple(fields))) for fields in rows]
    normalized = collector.normalize(batch)

    each = [collector._normalize_fields(tuple(fields)) for fields in rows]
    assert [found and found.fields for found in normalized] == each
    assert normalized[0].fields == NORMAL


def test_a_normal_batch_is_not_normalized_row_by_row(collector, monkeypatch):
    """That would take five times as long."""
    monkeypatch.setattr(collector, "_normalize_fields", None)
    batch = [transition(tuple(NORMAL._replace(message_id=make_id(n)))) for n in range(3)]

    assert collector.normalize(batch) == batch


@pytest.mark.parametrize("tenant", [[], {}, 0, False, [1], Name.NORTH], ids=repr)
def test_an_odd_tenant_affects_no_other_message(tenant, collector):
    """Options come from outside, and one message must not stop the writer.  Details, because the
    size of such a batch is calculated."""
    buffer = Buffer(10, normalize=collector.normalize)
    for number, options in enumerate([{}, {"taskstate_tenant": tenant}, {}]):
        message = make_message({}, message_id=make_id(number), options=options)
        fields = collector.collect(message, {})
        buffer.queue.push((*transition(fields)[:5], TaskDetails(progress=1.0)))
    buffer.coalesce()
    found = [pending.latest.fields.tenant for pending in buffer.pop_batch(10)]

    assert found == ["", "north" if tenant == "north" else "?", ""]
    assert {*map(type, found)} == {str}


def test_names_that_are_not_strings_are_not_remembered(collector):
    """1 equals True, but reads differently."""
    found = [
        MessageFields(*collector.collect(make_message({}), {"model_name": name})).model_name
        for name in (1, True, "1", [1])
    ]

    assert found == ["1", "True", "1", "[1]"]


def test_few_names_are_remembered(collector):
    """They come from outside."""
    for number in range(2_000):
        collector.collect(make_message({}), {"model_name": str(number)})

    assert len(collector._known_names) <= 512
