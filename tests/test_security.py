"""What comes with a message is data from a caller: it fills its own columns and no others, and what
is nobody's business is neither in the table nor in the log."""

import contextlib
import logging

import dramatiq
import pytest
from django.db import connections
from dramatiq.broker import MessageProxy
from dramatiq.brokers.stub import StubBroker

import taskstate
from taskstate import runs
from taskstate.middleware import StateMiddleware
from taskstate.models import Task, Watermark
from taskstate.signals import task_changed
from taskstate.transitions import MessageFields, Transition
from tests.conftest import LIMIT_SECONDS
from tests.factories import START, make_id
from tests.harness import Workers, make_broker
from tests.logs import heard_by
from tests.test_middleware import Exploding, make_message

#: What may be seen nowhere.
SECRET = "hunter2"

#: The keys of ``for_state`` that fill a column.
KNOWN = {"user_pk", "description", "model_name", "app_name", "metadata"}
FIELDS = {name for field in Task._meta.concrete_fields for name in (field.name, field.attname)}
HOSTILE_KEYS = {
    *FIELDS,
    *Transition._fields,
    *MessageFields._fields,
    *(
        "hop",
        "pk",
        "id",
        "status",
        "time",
        "time_ms",
        "options",
        "retries",
        "eta",
        "args",
        "kwargs",
    ),
    *("queue", "taskstate_hop", "taskstate_started_at", "__class__", "__dict__", "_state", ""),
} - KNOWN
VICTIM = make_id(1)
HOSTILE_VALUES = [
    VICTIM,
    "done",
    2**62,
    -1,
    "2001-01-01 00:00:00+00:00",
    None,
    True,
    {"taskstate_hop": 99, "status": "done"},
]
INJECTIONS = [
    "'); DELETE FROM taskstate_task; --",
    "x', status = 'done' WHERE '1' = '1",
    '"}, {"status": "done',
    '","x"],["y","done',
    '{"a",NULL}',
    "NULL",
    "\\",
    '\\"',
    "%s %(a)s {0} {a}",
    "\u2028\r\n\t\x1b[31m\x01",
    "ünï😀\u202e",
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
    moment = runs.now()
    monkeypatch.setattr(runs, "now", lambda: moment)


def received(for_state, **values):
    """A message as it comes from a broker: nothing but JSON."""
    message = make_message(for_state, message_timestamp=START, **values)
    return dramatiq.Message.decode(message.encode())


def stages(state, broker, message):
    """Let a message fail once and then succeed; stop where a row may have changed."""

    def enqueue(message, delay):
        state.before_enqueue(broker, message, delay)
        state.after_enqueue(broker, message, delay)

    enqueue(message, None)
    yield "enqueued"
    first = MessageProxy(message)
    state.before_process_message(broker, first)
    yield "running"
    retry = message.copy(options={"retries": 1})
    enqueue(retry, 100)
    state.after_process_message(broker, first, exception=ValueError(SECRET))
    state.before_ack(broker, first)
    yield "delayed"
    enqueue(retry, None)
    yield "enqueued"
    second = MessageProxy(retry)
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

    def emit(self, record):
        # A handler of structured records writes the arguments as well.
        self.lines.append(f"{logging.Formatter().format(record)} {record.args!r}")

    @property
    def text(self):
        return "\n".join(self.lines)


@pytest.fixture
def log():
    with heard_by(Log()) as log:
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
        state._writer._step_safely()


def alone(**options):
    """A middleware whose writer has no thread: the test takes its steps."""
    state = StateMiddleware(flush_interval=0, shutdown_timeout=0, **options)
    state._writer._start = lambda: False
    return state


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
    """It says what is wrong with it, by its type."""
    if "a" in message.options:
        message = message.copy()
        message = dramatiq.Message(**{**message.asdict(), "options": Exploding(message.options)})
    with contextlib.suppress(ZeroDivisionError):  # Our own, in copying it for a retry.
        run(alone(), broker, message)

    assert log.lines
    assert SECRET not in log.text


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

    stats = state._writer.stats()
    assert stats.refused or stats.failures, "the database took it"
    assert log.lines
    assert SECRET not in log.text
    assert SECRET not in stats.last_error
