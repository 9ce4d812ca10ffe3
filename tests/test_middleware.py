"""The hooks by themselves: what they push, and that they cost and break nothing."""

import contextlib
import logging
import math
import threading
import uuid

import dramatiq
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import BaseDatabaseWrapper
from dramatiq.broker import MessageProxy
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import MiddlewareError

from taskstate import middleware as module
from taskstate.middleware import StateMiddleware
from taskstate.tracking import processing
from taskstate.tracking.encodable import ForStateError
from taskstate.tracking.run import Run
from taskstate.transitions.rank import stamp_of
from taskstate.transitions.status import Status
from taskstate.transitions.transition import Transition
from taskstate.writer.thread import BackgroundThread
from taskstate.writer.transition_queue import TransitionQueue
from tests.support.databases import use_database
from tests.support.harness import task_of
from tests.support.hooks import Exploding, call, make_message

HOOKS = [
    ("before_enqueue", [None]),
    ("after_enqueue", [None]),
    ("before_delay_message", []),
    ("before_process_message", []),
    ("after_process_message", []),
    ("after_skip_message", []),
    ("before_ack", []),
    ("before_nack", []),
    ("after_ack", []),
    ("after_nack", []),
]


@pytest.fixture
def pushed(monkeypatch):
    """What the hooks push, normalized, and kept from the writer."""
    pushes = []
    collector = module.FieldCollector()

    def push(writer, transition):
        (normalized,) = collector.normalize([transition])
        if normalized is not None:
            pushes.append(normalized)

    monkeypatch.setattr(TransitionQueue, "push", push)
    monkeypatch.setattr(module.SynchronousWriter, "push", push)
    return pushes


@pytest.fixture
def broker():
    return StubBroker(middleware=[])


def run_through(state, broker, message):
    """Call every hook, as one run would."""
    received = message
    for hook, arguments in HOOKS:
        if hook == "after_enqueue":  # The broker has encoded it.
            received = message.copy()
        target = message if "enqueue" in hook else MessageProxy(received)
        call(state, broker, hook, target, arguments)


def test_creating_a_middleware_starts_no_thread(monkeypatch):
    """It is created before models can be imported, so it reads no settings either."""
    monkeypatch.setattr("taskstate.conf.raw_settings", lambda: pytest.fail("settings were read"))
    before = threading.active_count()
    StateMiddleware(flush_interval=0.2)

    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"flush_interval": -1}, "flush_interval=-1.*out of range.*seconds from 0"),
        ({"flush_interval": "soon"}, "flush_interval='soon'.*not a number"),
        ({"max_batch_size": 0.5}, "max_batch_size=0.5.*not a whole number"),
        ({"max_pending": True}, "max_pending=True.*not a whole number"),
        ({"max_pending_bytes": 1}, "max_pending_bytes=1.*out of range"),
        ({"shutdown_timeout": float("nan")}, "shutdown_timeout=nan.*out of range"),
        ({"synchronous": 1}, "synchronous=1.*True or False"),
    ],
)
def test_bad_arguments(options, error):
    """The error states the argument, the value and what to do."""
    with pytest.raises(ImproperlyConfigured, match=error):
        StateMiddleware(**options)


def test_arguments_win_over_the_settings(settings):
    """And what isn't given is read from the settings, live."""
    state = StateMiddleware(flush_interval=0.2)
    settings.TASKSTATE = {"FLUSH_INTERVAL": 5, "MAX_BATCH_SIZE": 7}
    assert (state._options.flush_interval, state._options.max_batch_size) == (0.2, 7)
    settings.TASKSTATE = {}
    assert (state._options.flush_interval, state._options.max_batch_size) == (0.2, 1000)


@pytest.mark.parametrize(("hook", "arguments"), HOOKS)
@pytest.mark.parametrize(
    "for_state",
    [{"user_pk": 1, "description": "x"}, {}, {"user_pk": object()}, {"description": "\0" * 999}],
)
def test_hooks_never_query(hook, arguments, for_state, broker, monkeypatch):
    """Each hook by itself, with a database that can't even be connected to."""
    queries = []

    def fail(wrapper, *args, **kwargs):
        queries.append(hook)
        raise RuntimeError("the database is away")

    for method in ("connect", "ensure_connection", "cursor"):
        monkeypatch.setattr(BaseDatabaseWrapper, method, fail)
    monkeypatch.setattr(BackgroundThread, "_start", lambda thread: True)
    state = StateMiddleware()

    with contextlib.suppress(ForStateError):  # An object can't be encoded.
        call(state, broker, hook, MessageProxy(make_message(for_state)), arguments)

    assert queries == []


@pytest.mark.parametrize(("hook", "arguments"), HOOKS)
def test_hooks_never_raise(hook, arguments, broker, caplog):
    """Whatever goes wrong inside is logged, with the message, and the work goes on."""
    message = MessageProxy(make_message({}, options=Exploding()))

    call(StateMiddleware(), broker, hook, message, arguments)

    # The others know of no run.
    if hook not in {"after_process_message", "before_ack", "after_ack", "after_nack"}:
        assert "ZeroDivisionError" in caplog.text
        assert f"{hook} could not track message {message.message_id} of actor act" in caplog.text


def test_after_worker_shutdown_never_raises(broker, monkeypatch, caplog):
    """The last hook of a worker, too."""
    monkeypatch.setattr(module.Writer, "stop", lambda writer: 1 / 0)
    StateMiddleware().after_worker_shutdown(broker, None)

    assert "ZeroDivisionError" in caplog.text


def test_untracked_messages_are_not_changed(broker, pushed, caplog):
    """Nothing is pushed, and nothing is changed about them."""
    caplog.set_level(logging.DEBUG, "taskstate")
    state = StateMiddleware()
    for kwargs in ({}, {"for_state": None}, {"for_state": "yes"}):
        message = make_message(None, kwargs=kwargs)
        run_through(state, broker, message)
        assert message.options == {}

    assert pushed == []
    assert "its for_state is a str, not a dict" in caplog.text


def test_values_are_normalized(broker, pushed):
    """The writer gets no raw values."""
    for_state = {
        "user_pk": "12",
        "description": "a\0" + "b" * 300,
        "model_name": ["Invoice"],
        "app_name": None,
    }
    StateMiddleware().after_enqueue(broker, make_message(for_state, actor_name="x" * 400), None)
    (transition,) = pushed

    assert transition.fields.user_pk == 12
    assert transition.fields.description == "a" + "b" * 253 + "…"
    assert (transition.fields.model_name, transition.fields.app_name) == ("['Invoice']", "")
    assert len(transition.fields.actor_name) == 300


@pytest.mark.parametrize(
    "user_pk",
    ["anna", 2**63, 2**70, -(2**70), True, 1.5, [1], {"a": 1}, "1" * 999, "", " 1_1 ", "007"],
)
def test_a_bad_user_pk_is_no_user(user_pk, broker, pushed, caplog):
    """One warning per actor, and the task is tracked without its user."""
    state = StateMiddleware()
    for _ in range(3):
        state.after_enqueue(broker, make_message({"user_pk": user_pk}), None)

    assert [transition.fields.user_pk for transition in pushed] == [None] * 3
    (record,) = caplog.records
    assert "A task of actor act is tracked without its user" in record.message


def test_a_message_id_that_is_no_uuid_is_not_tracked(broker, pushed, caplog):
    """One warning per actor; its work isn't touched."""
    state = StateMiddleware()
    for actor in ("one", "one", "two"):
        run_through(state, broker, make_message({}, actor_name=actor, message_id="job-7"))

    assert pushed == []
    assert len(caplog.records) == 2
    assert "'job-7' is not a valid UUID" in caplog.text


def test_message_ids_are_made_canonical(broker, pushed):
    """Two spellings of one id are one task."""
    key = uuid.uuid4()
    for text in (str(key), key.hex):
        StateMiddleware().after_enqueue(broker, make_message({}, message_id=text), None)

    assert [transition.message_id for transition in pushed] == [str(key)] * 2


@pytest.mark.parametrize("options", [{"taskstate_stamp": "x", "retries": None}, {"retries": -3}])
def test_strange_options_count_as_absent(options, broker, pushed):
    """Other services and older releases may send anything."""
    message = make_message({}, options=options)
    state = StateMiddleware()
    state.before_enqueue(broker, message, None)
    state.after_enqueue(broker, message, None)

    assert stamp_of(pushed[0].rank) == message.message_timestamp
    assert pushed[0].attempt == 1


@pytest.mark.parametrize(
    ("retries", "attempt"),
    [(0, 1), (3, 4), (-1, 1), ("3", 1), (2.5, 1), (2**31 - 1, 2**31 - 1), (2**80, 2**31 - 1)],
)
def test_an_attempt_has_the_number_of_retries_plus_one(retries, attempt, broker, pushed):
    """It stays within the range of its column; a value that is not a whole number counts as 0."""
    proxy = MessageProxy(make_message({}, options={"retries": retries}))
    StateMiddleware().before_process_message(broker, proxy)

    assert [transition.attempt for transition in pushed] == [attempt]


@pytest.mark.parametrize(("retries", "error"), [({}, None), ({"retries": 1}, "Boom")])
def test_only_a_retry_has_the_error_of_an_earlier_attempt(retries, error, broker, pushed):
    """A message whose retries were reset does not, though its options still hold the error."""
    message = make_message({}, options={"taskstate_error": "Boom", **retries})
    state = StateMiddleware()
    state.after_enqueue(broker, message, None)
    state.before_process_message(broker, MessageProxy(message))

    errors = [transition.details and transition.details.error for transition in pushed]
    assert errors == [error] * 2


def test_the_queue_is_never_the_delay_queue(broker, pushed):
    """And a delay of 0 is a delay."""
    StateMiddleware().after_enqueue(broker, make_message({}, queue_name="slow.DQ"), 0)

    assert (pushed[0].fields.queue_name, pushed[0].status) == ("slow", Status.DELAYED)


def test_hooks_may_repeat_themselves(broker, pushed):
    """Dramatiq repeats an ack after a lost connection, and calls the hooks of an end twice."""
    state = StateMiddleware()
    message = MessageProxy(make_message({}))
    state.before_process_message(broker, message)
    state.after_process_message(broker, message, result=None)
    state.after_process_message(broker, message, exception=TimeoutError())
    for _ in range(3):
        state.before_ack(broker, message)

    assert [transition.status for transition in pushed] == [Status.RUNNING, Status.FAILED]
    assert state._this_thread.state.run is None, "the thread has left the run"


def test_the_last_report_of_an_end_counts(broker, pushed):
    """In either order."""
    state = StateMiddleware()
    message = MessageProxy(make_message({}))
    state.before_process_message(broker, message)
    state.after_process_message(broker, message, exception=TimeoutError())
    state.after_process_message(broker, message, result=None)
    state.before_ack(broker, message)

    assert [transition.status for transition in pushed] == [Status.RUNNING, Status.DONE]


def test_a_retry_that_is_interrupted_keeps_when_the_first_run_began(broker, pushed, monkeypatch):
    """A later attempt must not overwrite it, wherever an exception is raised in the hook."""
    began = []

    class Interruptible(Run):
        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if name == "started_at":
                began.append(value)

    monkeypatch.setattr(processing, "Run", Interruptible)
    options = {"retries": 1, "taskstate_started_at": 7}
    proxy = MessageProxy(make_message({}, options=options))
    StateMiddleware().before_process_message(broker, proxy)

    assert began == [7]


def test_the_ack_of_a_delayed_copy_is_no_end(broker, pushed):
    """The consumer acknowledges it when it has enqueued the message that will run."""
    StateMiddleware().before_ack(broker, MessageProxy(make_message({})))

    assert pushed == []


def test_the_ack_of_a_message_that_was_only_enqueued_is_no_end(broker, pushed):
    """A consumer may hand on what it has fetched: its ack ends nothing."""
    state = StateMiddleware()
    message = MessageProxy(make_message({}))
    state.before_enqueue(broker, message, None)
    state.before_ack(broker, message)

    assert pushed == []


def test_synchronous_shows_the_row_at_once(sqlite, settings, broker):
    """The row is there when ``send`` returns."""
    settings.TASKSTATE = {"SYNCHRONOUS": True}
    broker.add_middleware(StateMiddleware())
    act = dramatiq.actor(lambda for_state: None, broker=broker, actor_name="act")

    message = act.send(for_state={"description": "now"})

    assert task_of(message).description == "now"


def test_the_default_key_of_users(settings, django_db_setup, django_db_blocker):
    """It is what the tasks' database takes, not the default database's."""
    with use_database("default", settings, django_db_blocker):
        assert module.FieldCollector()._user_key().greatest == 2**63 - 1
    if "postgres" in settings.DATABASES:
        with use_database("postgres", settings, django_db_blocker):
            assert module.FieldCollector()._user_key().greatest == 2**31 - 1


# FLUSH_BEFORE_ACK.


@pytest.fixture
def waited(monkeypatch):
    """The transitions that a hook waits for; the wait returns at once, as after a commit."""
    transitions = []
    monkeypatch.setattr(
        module.Writer,
        "push_and_wait",
        lambda writer, transition, left: transitions.append(Transition(*transition)) or True,
    )
    return transitions


def end(state, broker, ack, **outcome):
    """Let a message run, and acknowledge or reject it."""
    proxy = MessageProxy(make_message({}))
    state.before_process_message(broker, proxy)
    state.after_process_message(broker, proxy, **outcome)
    getattr(state, ack)(broker, proxy)
    return proxy


@pytest.mark.parametrize(
    ("ack", "outcome", "status"),
    [
        ("before_ack", {"result": 7}, Status.DONE),
        ("before_ack", {"exception": TimeoutError()}, Status.FAILED),
        ("before_nack", {"exception": TimeoutError()}, Status.FAILED),
    ],
)
def test_final_states_are_waited_for(ack, outcome, status, broker, pushed, waited):
    """Once, however often the broker is asked to acknowledge."""
    state = StateMiddleware(flush_before_ack=True)
    proxy = end(state, broker, ack, **outcome)
    getattr(state, ack)(broker, proxy)

    assert [transition.status for transition in pushed] == [Status.RUNNING]
    assert [transition.status for transition in waited] == [status]


def test_a_retry_is_not_waited_for(broker, pushed, waited):
    """The message is in the queue again, and its next run decides how it ends."""
    state = StateMiddleware(flush_before_ack=True)
    proxy = MessageProxy(make_message({}))
    state.before_process_message(broker, proxy)
    retry = proxy._message.copy(options={"retries": 1})
    state.before_enqueue(broker, retry, 100)
    state.after_enqueue(broker, retry, 100)
    state.after_process_message(broker, proxy, exception=TimeoutError())
    state.before_ack(broker, proxy)

    assert [transition.status for transition in pushed] == [Status.RUNNING, Status.DELAYED]
    assert waited == []


def test_the_consumer_thread_never_waits(broker, pushed, waited):
    """A delayed copy's ack and an unknown actor's nack: waiting there stalls heartbeats."""
    state = StateMiddleware(flush_before_ack=True)
    state.before_ack(broker, MessageProxy(make_message({})))
    state.before_nack(broker, MessageProxy(make_message({})))

    assert [transition.status for transition in pushed] == [Status.FAILED]
    assert waited == []


def test_the_consumer_thread_never_waits_for_a_repeated_nack(broker, waited, monkeypatch):
    """Dramatiq repeats it after a lost connection; here the first push failed as well."""
    pushes = []

    def push(queue, transition):
        pushes.append(transition)
        if len(pushes) == 1:
            raise RuntimeError

    monkeypatch.setattr(TransitionQueue, "push", push)
    monkeypatch.setattr(BackgroundThread, "_start", lambda thread: True)
    state = StateMiddleware(flush_before_ack=True)
    proxy = MessageProxy(make_message({}))
    state.before_nack(broker, proxy)
    state.before_nack(broker, proxy)

    assert len(pushes) == 2
    assert waited == []


@pytest.mark.parametrize(
    "options", [{}, {"flush_before_ack": False}, {"flush_before_ack": True, "synchronous": True}]
)
def test_no_hook_waits_without_flush_before_ack(options, broker, pushed, waited):
    """And with SYNCHRONOUS the state is written already."""
    state = StateMiddleware(**options)
    end(state, broker, "before_ack", result=None)

    assert [transition.status for transition in pushed] == [Status.RUNNING, Status.DONE]
    assert waited == []


def test_a_shutdown_ends_the_wait_for_a_commit(broker, pushed, monkeypatch):
    """By the one kind of error that Dramatiq lets through, so that the message is not
    acknowledged; the broker delivers it again."""
    monkeypatch.setattr(module.Writer, "push_and_wait", lambda writer, transition, left: False)
    state = StateMiddleware(flush_before_ack=True)
    with pytest.raises(MiddlewareError, match=r"'done' of message .* could not be written within"):
        end(state, broker, "before_ack", result=None)


def test_how_long_a_hook_waits_for_a_commit(broker, monkeypatch):
    """For ever; in a shutdown for its timeout, from the shutdown or from the end of the work."""
    now = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    state = StateMiddleware(shutdown_timeout=10)
    time_left = state._sink._time_left
    assert time_left(since=900) == math.inf

    state.before_worker_shutdown(broker, None)
    assert time_left(since=900) == 10
    now = 1009.0
    assert time_left(since=900) == 1
    assert time_left(since=1008) == 9
    now = 1020.0
    assert time_left(since=900) == 0

    state.after_worker_shutdown(broker, None)
    assert time_left(since=900) == math.inf


def test_a_message_that_was_sent_equals_what_arrives(broker, pushed):
    """Tests of projects compare them; sent once more, it has another stamp."""
    message = make_message({})
    state = StateMiddleware()
    state.before_enqueue(broker, message, None)
    arrived = dramatiq.Message.decode(message.encode())
    state.after_enqueue(broker, message, None)

    assert message == arrived
    assert arrived == message
    assert repr(message) == repr(arrived)
    assert dramatiq.Message.decode(message.encode()) != arrived
