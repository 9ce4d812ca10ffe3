"""Messages that no project should send, hooks as Dramatiq calls them and as it doesn't, and the row
that must come of it: derived from the sequence of calls, never from the code under test.
"""

import contextlib
import dataclasses
import decimal
import enum
import functools
import itertools
import uuid
from datetime import datetime, timezone

import dramatiq
from dramatiq.broker import MessageProxy
from hypothesis import strategies as st

from taskstate.tracking.encodable import ForStateError
from tests.support.hostile import HOSTILE_KEYS, INJECTIONS

#: The length of a text, in characters.
LONGEST = 20_000
#: How deep lists are nested.
DEPTHS = (10, 300, 3_000, 100_000)

#: Left out of the comparison: between these, a user key fits some databases.
INT_32, INT_64 = 2**31, 2**63

_PREFIX = str(uuid.uuid4())[:23]
_numbers = itertools.count()


def new_id():
    """Return the id of a message: not drawn, so that no two examples share one."""
    return f"{_PREFIX}-{next(_numbers):012x}"


class Raising:
    """Raises whatever it is asked."""

    def _raise(self, *_):
        raise ZeroDivisionError("not even that")

    __str__ = __eq__ = __hash__ = __len__ = __bool__ = __int__ = __iter__ = _raise


class LyingText(str):
    """Says that it is short, and something else whenever it is asked."""

    __slots__ = ()

    def __len__(self):
        return 3

    def __str__(self):
        return "\0"


class Member(str, enum.Enum):
    """A member's text is its value, as it would be after JSON."""

    ONE = "one"


@functools.lru_cache(maxsize=None)
def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


texts = st.one_of(
    st.text(),
    st.text(st.characters()),  # Lone surrogates, too.
    st.sampled_from(INJECTIONS),
    st.builds(
        lambda character, length: character * length,
        st.sampled_from(["x", "ä", "😀", "\0", "\ud800", "'", '"', "\\"]),
        st.sampled_from([100, 101, 255, 256, 300, 301, 1_000, 1_001, LONGEST]),
    ),
)
numbers = st.one_of(
    st.integers(),
    st.integers(-INT_32, INT_32 - 1),
    st.sampled_from([0, -1, 2**62, INT_64, -INT_64 - 1, 2**17, 2**42]),
    st.floats(),
)
keys = st.one_of(st.sampled_from(sorted(HOSTILE_KEYS)), texts)
json = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(keys, inner, max_size=5)),
    max_leaves=8,
)
#: What a sender in the same process may hand over, before it is encoded.
objects = st.one_of(
    json,
    st.uuids(),
    st.sampled_from(
        [uuid.UUID(int=7), Member.ONE, LyingText("x" * LONGEST), b"\0", {1, 2}, object]
    ),
    st.builds(Raising),
    # Python writes out, and reads, no more than 4,300 digits.
    st.builds(pow, st.just(10), st.sampled_from([4_000, 5_000])),
    st.just(decimal.Decimal("NaN")),
    st.just(datetime(2026, 1, 1, tzinfo=timezone.utc)),
    st.builds(nested, st.sampled_from(DEPTHS)),
)


@st.composite
def states(draw):
    """A ``for_state``: any keys, and those that are known with anything in them."""
    state = draw(st.dictionaries(keys, objects, max_size=4))
    if draw(st.booleans()):
        state["description"] = draw(objects)
    if draw(st.booleans()):
        state["user_pk"] = draw(objects)
    if draw(st.booleans()):
        state["model_name"], state["app_name"] = draw(objects), draw(texts)
    return state


@dataclasses.dataclass
class Life:
    """A message that Dramatiq could have sent and run."""

    for_state: object
    actor_name: str
    queue_name: str
    #: Whether it was sent with a delay, and whether that is over by now.
    is_delayed: bool
    is_due: bool
    #: How often it was retried.
    retries: int
    #: How its last run went; empty if that didn't begin.
    end: str

    @property
    def status(self):
        """What the row must say in the end."""
        if self.never_becomes_due:
            return "delayed"
        return ENDS[self.end] if self.end else "enqueued"

    @property
    def attempt(self):
        """The number of the last attempt."""
        return 1 if self.never_becomes_due else self.retries + 1

    @property
    def never_becomes_due(self):
        return self.is_delayed and not self.is_due


#: How the last run of a message may go, and what its row says then.
ENDS = {
    "running": "running",
    "done": "done",
    "failed": "failed",
    "failed by a middleware": "failed",
    "skipped": "skipped",
    "skipped by a middleware": "skipped",
}

lives = st.builds(
    Life,
    for_state=states(),
    actor_name=texts,
    queue_name=st.one_of(st.just("default"), texts),
    is_delayed=st.booleans(),
    is_due=st.booleans(),
    retries=st.integers(0, 3),
    end=st.sampled_from(["", *ENDS]),
)


def live(life, state, broker):
    """Call the hooks as Dramatiq does for this life; return the message, or None if its
    ``for_state`` is rejected where it is sent."""
    message = dramatiq.Message(
        queue_name=life.queue_name,
        actor_name=life.actor_name,
        args=(),
        kwargs={"for_state": life.for_state},
        options={},
        message_id=new_id(),
    )
    try:
        _enqueue(state, broker, message, 1_000 if life.is_delayed else None)
    except ForStateError:
        return None
    if life.is_delayed:
        if life.never_becomes_due:
            return message
        _become_due(state, broker, message)
    for number in range(life.retries):
        proxy = MessageProxy(message)
        state.before_process_message(broker, proxy)
        message = message.copy(options={"retries": number + 1})
        _enqueue(state, broker, message, 1_000)
        state.after_process_message(broker, proxy, exception=ZeroDivisionError())
        state.before_ack(broker, proxy)
        _become_due(state, broker, message)
    if life.end:
        _run(state, broker, MessageProxy(message), life.end)
    return message


def _enqueue(state, broker, message, delay):
    state.before_enqueue(broker, message, delay)
    state.after_enqueue(broker, message, delay)


def _become_due(state, broker, message):
    """The delayed copy goes to its real queue, and is acknowledged."""
    proxy = MessageProxy(message)
    state.before_delay_message(broker, proxy)
    _enqueue(state, broker, message, None)
    state.before_ack(broker, proxy)


def _run(state, broker, proxy, end):
    if end == "skipped by a middleware":  # Before ours came to know of the run.
        state.after_skip_message(broker, proxy)
        state.before_nack(broker, proxy)
        return
    state.before_process_message(broker, proxy)
    if end == "running":
        return
    if end == "skipped":
        state.after_skip_message(broker, proxy)
    elif end == "done":
        state.after_process_message(broker, proxy, result=Raising())
    else:
        state.after_process_message(broker, proxy, exception=ZeroDivisionError())
    if end == "failed by a middleware":
        state.before_nack(broker, proxy)
    else:
        state.before_ack(broker, proxy)


@dataclasses.dataclass
class Chaos:
    """A message of any kind, and hooks in any order."""

    for_state: object
    fields: dict
    #: Of each call: the hook, whether it gets a proxy, and what else.
    calls: list


@st.composite
def calls(draw):
    hook = draw(
        st.sampled_from(
            [
                "before_enqueue",
                "after_enqueue",
                "before_delay_message",
                "before_process_message",
                "after_process_message",
                "after_skip_message",
                "before_ack",
                "after_ack",
                "before_nack",
                "after_nack",
            ]
        )
    )
    more = {}
    if hook.endswith("enqueue"):
        more["delay"] = draw(st.one_of(st.none(), numbers, texts))
    if hook == "after_process_message":
        name = draw(st.sampled_from(["result", "exception"]))
        more[name] = draw(objects)
    # Dramatiq gives the message itself when it enqueues, and as a rule a proxy otherwise.
    return hook, draw(st.integers(0, 2)), more


chaos = st.builds(
    Chaos,
    for_state=st.one_of(states(), objects),
    fields=st.fixed_dictionaries(
        {},
        optional={
            "queue_name": json,
            "actor_name": json,
            "options": st.one_of(st.dictionaries(keys, objects, max_size=4), json),
            # MariaDB rejects some UUIDs of other versions.
            "message_id": st.one_of(texts, json, st.uuids(version=4)),
            "message_timestamp": st.one_of(numbers, texts, json),
        },
    ),
    calls=st.lists(calls(), min_size=1, max_size=12),
)


def run_wild(wild, state, broker):
    """Call hooks in an order that makes no sense, for a message that makes none."""
    fields = {
        "queue_name": "default",
        "actor_name": "act",
        "options": {},
        "message_id": new_id(),
        **wild.fields,
    }
    message = dramatiq.Message(args=(), kwargs={"for_state": wild.for_state}, **fields)
    # Message 0 is the message itself.
    messages = [message, MessageProxy(message), MessageProxy(message)]
    for hook, number, more in wild.calls:
        with contextlib.suppress(ForStateError):
            getattr(state, hook)(broker, messages[number], **more)


def expected_text(value, length):
    """Return what a column must hold."""
    if value is None:
        return ""
    try:
        text = text_of(value)
    except Exception:
        text = f"<unprintable {type(value).__name__} object>"
    text = "".join(c for c in text if c != "\0" and not "\ud800" <= c <= "\udfff")
    return text if len(text) <= length else f"{text[: length - 1]}…"


def text_of(value):
    """Return the text of a value; of an enumeration's member its value, not its name, and of a time
    what JSON has."""
    if isinstance(value, datetime):
        return value.isoformat()
    return str.__str__(value) if isinstance(value, str) else str(value)


def expected_users(value, *, takes_zero):
    """Return the keys of users that a row may name; a UUID is sent as its text, not a number.

    Parameters:
      takes_zero(bool): Whether 0 is a key: for MariaDB it means "the next number".
    """
    key = None
    if isinstance(value, int) and not isinstance(value, bool):
        key = value
    elif isinstance(value, str) and len(text_of(value)) <= 255:
        try:
            key = int(text_of(value))
        except ValueError:
            key = None
    if key == 0 and not takes_zero:
        return {None}
    if key is None or -INT_32 <= key < INT_32:
        return {key}
    return {None, key} if -INT_64 <= key < INT_64 else {None}
