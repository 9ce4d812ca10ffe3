"""What comes with a message is data from a caller: it fills its own columns and no others, and what
is not meant for readers is neither in the table nor in the log."""

import contextlib
import logging

import dramatiq
import pytest
from django.db import OperationalError, connections
from dramatiq.broker import MessageProxy
from dramatiq.brokers.stub import StubBroker

import taskstate
from taskstate.middleware import StateMiddleware
from taskstate.models import Task, Watermark
from taskstate.signals import task_changed
from taskstate.stores.errors import summarize
from taskstate.tracking.run import ThisThread
from taskstate.utils import clock as clock_module
from tests.support.factories import START, make_id
from tests.support.harness import Workers, make_broker
from tests.support.hooks import Exploding, alone, make_message
from tests.support.hostile import HOSTILE_KEYS, INJECTIONS
from tests.support.limits import LIMIT_SECONDS
from tests.support.logs import logging_to

#: What may be seen nowhere.
SECRET = "hunter2"

VICTIM = make_id(1)
HOSTILE_VALUES = [
    VICTIM,
    "done",
    2**62,
    -1,
    "2001-01-01 00:00:00+00:00",
    None,
    True,
    {"taskstate_stamp": 99, "status": "done"},
]


@pytest.fixture(params=["orm", "upsert"])
def store(request):
    return request.param


@pytest.fixture
def broker():
    return StubBroker(middleware=[])


@pytest.fixture
def clock(monkeypatch):
    """One and the same moment for every hook, so that rows can be compared."""
    time_ns, monotonic = clock_module.time_ns(), clock_module.monotonic()
    monkeypatch.setattr(clock_module, "time_ns", lambda: time_ns)
    monkeypatch.setattr(clock_module, "monotonic", lambda: monotonic)


def received(for_state, **values):
    """A message as it comes from a broker: nothing but JSON."""
    message = make_message(for_state, message_timestamp=START, **values)
    return dramatiq.Message.decode(message.encode())


def stages(state, broker, message):
    """Let a message fail once and then succeed, in a thread of its own as hooks see it;
    stop where a row may have changed."""

    def enqueue(message, delay):
        """Return the message as a worker receives it."""
        state.before_enqueue(broker, message, delay)
        sent = message.copy()
        state.after_enqueue(broker, message, delay)
        return sent

    thread = state._this_thread = ThisThread()
    first = MessageProxy(enqueue(message, None))
    yield "enqueued"
    state._this_thread = thread
    state.before_process_message(broker, first)
    yield "running"
    state._this_thread = thread
    retry = enqueue(first.copy(options={"retries": 1}), 100)
    state.after_process_message(broker, first, exception=ValueError(SECRET))
    state.before_ack(broker, first)
    yield "delayed"
    state._this_thread = thread
    second = MessageProxy(enqueue(retry, None))
    yield "enqueued"
    state._this_thread = thread
    state.before_process_message(broker, second)
    state.after_process_message(broker, second, result=SECRET)
    state.before_ack(broker, second)
    yield "done"


def columns(key):
    """Return the row of a message, without its key."""
    row = Task.objects.filter(pk=key).values().get()
    del row["message_id"], row["written_at"]
    return row


def test_no_key_of_for_state_sets_anything_else(database, store, broker, clock):
    """Whatever its keys are called, a message has the row that it would have without them."""
    state = StateMiddleware(store=store, flush_interval=0)
    for _ in stages(state, broker, received({"description": "victim"}, message_id=VICTIM)):
        pass
    assert taskstate.flush(LIMIT_SECONDS)
    victim = columns(VICTIM)

    messages = [received({}, message_id=make_id(2))]
    for number, value in enumerate(HOSTILE_VALUES, start=3):
        hostile = dict.fromkeys(HOSTILE_KEYS, value)
        messages.append(received(hostile, message_id=make_id(number)))
    for statuses in zip(*(stages(state, broker, message) for message in messages)):
        assert taskstate.flush(LIMIT_SECONDS)
        plain, *others = [columns(message.message_id) for message in messages]
        assert plain["status"] == statuses[0]
        assert others == [plain] * len(HOSTILE_VALUES)
        assert columns(VICTIM) == victim

    assert Task.objects.count() == 2 + len(HOSTILE_VALUES)


def test_texts_are_stored_as_they_are(database, store, broker):
    """None of them ends a literal, an array or a statement."""
    state = StateMiddleware(store=store)
    for number, text in enumerate(INJECTIONS):
        for_state = {"description": text, "model_name": text, "app_name": text}
        message = received(for_state, message_id=make_id(number), actor_name=text, queue_name=text)
        state.after_enqueue(broker, message, None)
    assert taskstate.flush(LIMIT_SECONDS)

    names = ("description", "model_name", "app_name", "actor_name", "queue_name")
    rows = list(Task.objects.order_by("pk").values_list("status", "user_id", *names))
    assert rows == [("enqueued", None, *[text] * 5) for text in INJECTIONS]


def test_no_argument_is_stored(database, store, settings):
    """Nor what an actor returns, after a failure, a retry or a success; nor what for_state holds
    beside its five keys; nor the values of the variables of what raised."""
    settings.TASKSTATE = {"STORE": store}
    broker = make_broker()
    ran = []

    def act(*args, for_state, **kwargs):
        ran.append(kwargs["ends"])
        if kwargs["ends"] and ran.count(kwargs["ends"]) <= kwargs["failures"]:
            raise ValueError(f"attempt {len(ran)}")

    actor = dramatiq.actor(act, broker=broker, actor_name="act", max_retries=1)
    for ends, failures in (("", 0), ("badly", 2), ("late", 1)):
        actor.send(
            SECRET,
            {SECRET: [SECRET]},
            ends=ends,
            failures=failures,
            password=SECRET,
            for_state={"description": ends, "password": SECRET, SECRET: SECRET},
        )
    with Workers(broker) as workers:
        workers.finish()

    outcomes = dict(Task.objects.values_list("description", "status"))
    assert outcomes == {"": "done", "badly": "failed", "late": "done"}
    assert "ValueError: attempt" in Task.objects.get(description="badly").traceback
    stored = [*Task.objects.values(), *Watermark.objects.using(database).values()]
    assert SECRET not in str(stored)


# The log.


class Log(logging.Handler):
    """Every record below ``taskstate``, as a formatter writes it, traceback included."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.lines = []
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())
        # A handler of structured records writes the arguments as well.
        self.lines.append(f"{logging.Formatter().format(record)} {record.args!r}")

    @property
    def text(self):
        return "\n".join(self.lines)


@pytest.fixture
def log():
    with logging_to(Log()) as log:
        yield log


def secretive(for_state=None, **values):
    """A message whose every part that is the caller's holds the secret."""
    known = {"description": f"😀{SECRET}", "model_name": SECRET, "app_name": SECRET}
    kwargs = {
        "password": SECRET,
        "for_state": {**known, "password": SECRET, SECRET: [SECRET], **(for_state or {})},
    }
    return received(None, args=(SECRET, {SECRET: SECRET}), **{"kwargs": kwargs, **values})


def run(state, broker, message):
    for _ in stages(state, broker, message):
        state._writer.thread._step_safely()


@pytest.mark.parametrize(
    "message",
    [
        secretive(message_id="job-7"),
        secretive({"user_pk": SECRET}),
        secretive({"user_pk": [SECRET]}),
        secretive({"user_pk": {SECRET: 1}}),
        secretive({"user_pk": SECRET * 100}),
        secretive(kwargs={"for_state": SECRET}),
        secretive(kwargs={"for_state": [SECRET], "password": SECRET}),
        secretive(options=Exploding(a=SECRET)),
        secretive(message_id={"a": 1}),
        secretive(queue_name=None),
    ],
    ids=range(10),
)
def test_the_log_names_no_value_of_a_strange_message(message, sqlite, broker, log):
    """It states what is wrong, and the type of the value."""
    if "a" in message.options:
        message = message.copy()
        message = dramatiq.Message(**{**message.asdict(), "options": Exploding(message.options)})
    with contextlib.suppress(ZeroDivisionError):  # Our own, in copying it for a retry.
        run(alone(), broker, message)

    assert log.lines
    assert SECRET not in log.text


#: It ends the line of a log, forges another, and commands the terminal that shows it.
FORGED = "act\r\n2026-01-01 ERROR forged\x1b]52;c;cm0=\x07\u2028\x9b2J"


@pytest.mark.parametrize(
    "message",
    [
        secretive(actor_name=FORGED, message_id=FORGED),
        secretive({"user_pk": [1], FORGED: 1}, actor_name=FORGED, queue_name=FORGED),
        secretive(actor_name=FORGED, message_id=FORGED, kwargs={"for_state": [1]}),
        secretive(actor_name=FORGED, message_id=FORGED, options=Exploding(a=1)),
    ],
    ids=range(4),
)
def test_a_record_is_one_line_without_control_characters(message, sqlite, broker, log):
    """Whatever names and ids a message has."""
    if "a" in message.options:
        message = dramatiq.Message(**{**message.asdict(), "options": Exploding(message.options)})
    with contextlib.suppress(ZeroDivisionError):
        run(alone(), broker, message)

    assert log.messages
    assert [text for text in log.messages if not text.isprintable()] == []


def test_an_error_of_the_database_is_logged_in_a_line():
    """Its text may quote a name from outside, such as that of a database."""
    text = summarize(OperationalError(f'no database "a{FORGED}b" here'))

    assert text.isprintable()
    assert "forged" in text


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_the_log_names_no_value_if_a_receiver_fails(error, sqlite, broker, log):
    """The task by its id, since its text is its description."""

    def fail(sender, task, **kwargs):
        raise error("no")

    task_changed.connect(fail, sender=StateMiddleware)
    try:
        run(alone(), broker, secretive(message_id=VICTIM))
    finally:
        task_changed.disconnect(fail, sender=StateMiddleware)

    if error is SystemExit:  # An ordinary exception is Django's to log.
        assert VICTIM in log.text
    assert SECRET not in log.text


def execute(connection, sql):
    """Run a statement of ``FAULTS``, by whatever connection there is by now."""
    with connection.cursor() as cursor:
        cursor.execute(sql.format(table=Task._meta.db_table))


def syntax_error(execute, sql, params, many, context):
    """Let the database quote a statement that holds parameters, as drivers write them into it."""
    if "INTO taskstate_task" in sql.replace('"', "").replace("`", ""):
        sql, params = f"GARBAGE '{SECRET}' ({SECRET})", None
    return execute(sql, params, many, context)


#: Each makes a database quote what it was sent, in words of its own: statements that break it, and
#: those that mend it; none for ``syntax_error``.
FAULTS = [
    ("default", ["CREATE UNIQUE INDEX forbid ON {table} (description)"], ["DROP INDEX forbid"]),
    ("postgres", ["CREATE UNIQUE INDEX forbid ON {table} (description)"], ["DROP INDEX forbid"]),
    (
        "postgres",
        ["ALTER TABLE {table} ADD CONSTRAINT forbid CHECK (description = '')"],
        ["ALTER TABLE {table} DROP CONSTRAINT forbid"],
    ),
    (
        "postgres",
        [
            "CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION "
            "'no' USING ERRCODE = 'insufficient_privilege', DETAIL = NEW::text; END $$",
            "CREATE TRIGGER forbid BEFORE INSERT OR UPDATE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION forbid()",
        ],
        ["DROP TRIGGER forbid ON {table}", "DROP FUNCTION forbid()"],
    ),
    (
        "postgres",
        ["ALTER TABLE {table} ALTER COLUMN description TYPE uuid USING NULL"],
        ["ALTER TABLE {table} ALTER COLUMN description TYPE varchar(255) USING ''"],
    ),
    (
        "mariadb",
        ["ALTER TABLE {table} ADD CONSTRAINT forbid CHECK (description = '')"],
        ["ALTER TABLE {table} DROP CONSTRAINT forbid"],
    ),
    (
        "mariadb",
        ["ALTER TABLE {table} ADD CONSTRAINT forbid UNIQUE (description)"],
        ["ALTER TABLE {table} DROP CONSTRAINT forbid"],
    ),
    (
        "mariadb",
        ["ALTER TABLE {table} MODIFY description varchar(255) CHARACTER SET latin1 NOT NULL"],
        ["ALTER TABLE {table} MODIFY description varchar(255) CHARACTER SET utf8mb4 NOT NULL"],
    ),
    *[(alias, [], []) for alias in ("default", "postgres", "mariadb")],
]


@pytest.mark.parametrize("synchronous", [False, True])
@pytest.mark.parametrize(
    ("database", "breaking", "mending"),
    FAULTS,
    indirect=["database"],
    ids=[f"{fault[0]}-{number}" for number, fault in enumerate(FAULTS)],
)
def test_the_log_names_no_value_that_the_database_quotes(
    database, store, synchronous, breaking, mending, broker, log
):
    """Bad data or an outage: the error is logged by its first line, without what that quotes."""
    if "UNIQUE" in "".join(breaking) and (store == "orm") != (database == "mariadb"):
        return  # It takes a conflict of any index for one of the key, and writes no row.
    state = alone(store=store, synchronous=synchronous)
    connection = connections[database]
    with contextlib.ExitStack() as stack:
        for sql in breaking:
            execute(connection, sql)
        for sql in reversed(mending):
            stack.callback(execute, connection, sql)
        stack.callback(Task.objects.all().delete)
        if not breaking:
            stack.enter_context(connection.execute_wrapper(syntax_error))
        for number in range(2):
            run(state, broker, secretive(message_id=make_id(number)))
        state.after_worker_shutdown(broker, None)

    stats = state._writer.stats() + state._sink._synchronous_writer.stats()
    is_short = "is written without its" in log.text
    assert stats.rejected or stats.failed_flushes or is_short, "the database took it"
    assert log.lines
    assert SECRET not in log.text
    assert SECRET not in stats.last_error
