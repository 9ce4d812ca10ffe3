"""What an actor reports of its run, what is known of a failure, and how a message is tracked."""

import asyncio
import contextlib
import contextvars
import threading
from decimal import Decimal

import dramatiq
import gevent
import pytest
from dramatiq import middleware as dm
from dramatiq.broker import MessageProxy
from dramatiq.brokers.stub import StubBroker

import taskstate
from taskstate.middleware import StateMiddleware
from taskstate.models import Task
from taskstate.signals import task_changed
from taskstate.tracking import options as message_options
from taskstate.tracking import progress
from taskstate.tracking.fields import FieldCollector
from taskstate.tracking.run import Progress, Run, set_current_run
from taskstate.transitions import sanitize
from taskstate.transitions.status import Status
from taskstate.transitions.transition import DETAILS, RANK
from taskstate.utils import clock
from taskstate.utils.warn_once import ActorWarnings
from taskstate.writer.buffer import QUEUE_ITEMS_PER_PENDING, Buffer
from tests.support.factories import START, make_transition
from tests.support.harness import POSITIONS, Workers, make_broker, task_of
from tests.support.hooks import call, make_message
from tests.support.limits import LIMIT_SECONDS

NOT_JSON = [
    ({1, 2}, "set is not JSON serializable"),
    (float("nan"), "can't be encoded as JSON"),
    ("x" * sanitize.RESULT_LENGTH, "64,000 are allowed"),
    ("a\0b", "NUL"),
    ("\ud800", "surrogate"),
]


class Gate:
    """Holds an actor until the test has seen what it wanted to see."""

    def __init__(self):
        self.reached = threading.Event()
        self.opened = threading.Event()

    def hold(self):
        self.reached.set()
        assert self.opened.wait(LIMIT_SECONDS)


@contextlib.contextmanager
def held(broker, actor, gate, **kwargs):
    """Let an actor run up to its gate, and to its end after the block."""
    message = actor.send(**{"for_state": {}, **kwargs})
    with Workers(broker) as workers:
        try:
            assert gate.reached.wait(LIMIT_SECONDS)
            assert taskstate.flush(LIMIT_SECONDS)
            yield message
        finally:
            gate.opened.set()
        workers.finish()


@contextlib.contextmanager
def running(state, broker, message):
    """Be inside of the run of a message."""
    message.options.setdefault(message_options.STAMP_OPTION, 1)
    proxy = MessageProxy(message)
    call(state, broker, "before_process_message", proxy)
    yield
    call(state, broker, "after_process_message", proxy)
    call(state, broker, "before_ack", proxy)


@pytest.fixture(autouse=True)
def _outside():
    """Whatever an earlier test has begun and not ended: this one begins outside of a run."""
    set_current_run(None)


@pytest.fixture
def state():
    """A middleware whose writer has no thread: the test takes its steps."""
    state = StateMiddleware(flush_interval=0)
    state._writer.thread._start = state._writer.thread._start_soon = lambda: False
    return state


@pytest.fixture
def broker():
    return StubBroker(middleware=[])


# Progress.


def test_progress_is_seen_while_it_runs_and_kept_when_it_is_done(database):
    """The function that reports it needs no argument for that."""
    gate = Gate()
    broker = make_broker()

    @dramatiq.actor(broker=broker, actor_name="act")
    def act(for_state=None):
        taskstate.set_progress(1, 3, "reading")
        gate.hold()

    with held(broker, act, gate) as message:
        task = task_of(message)
        assert (task.status, task.progress, task.progress_text) == ("running", 33.33, "reading")
    task = task_of(message)
    assert (task.status, task.progress, task.progress_text) == ("done", 33.33, "reading")


@pytest.mark.parametrize(
    ("arguments", "progress"),
    [
        ((40,), 40),
        ((1, 8), 12.5),
        ((0, 0), 100),
        ((7, 5), 100),
        ((-1, 5), 0),
        ((float("inf"), 5), 100),
        (("3", "4"), 75),
        ((2, 3), 66.67),
    ],
)
def test_progress_is_a_percentage(state, broker, sqlite, arguments, progress):
    """Without a total it is one already."""
    message = make_message({})
    with running(state, broker, message):
        taskstate.set_progress(*arguments)
    state._writer.thread._step_safely()
    assert task_of(message).progress == progress


class Vector:
    """An array of several numbers is no number, and raises an error of its own."""

    def __float__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    "arguments",
    [("half",), (None,), (1, "all"), (float("nan"),), ([1], 2), (1, "0"), (Vector(),)],
    ids=range(7),
)
def test_progress_that_is_not_a_number_does_not_end_the_actor(
    state, broker, sqlite, arguments, caplog, monkeypatch
):
    """That is logged once per actor, with what to do."""
    monkeypatch.setattr(progress, "_warnings", ActorWarnings(progress.logger))
    message = make_message({})
    with running(state, broker, message):
        taskstate.set_progress(50)
        taskstate.set_progress(*arguments)
        taskstate.set_progress(*arguments)
    state._writer.thread._step_safely()
    assert task_of(message).progress == 50
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "set_progress(done, total)" in caplog.text


def test_a_long_text_is_shortened(state, broker, sqlite):
    """As a description is."""
    message = make_message({})
    with running(state, broker, message):
        taskstate.set_progress(1, text="x" * 10_000)
    state._writer.thread._step_safely()
    assert task_of(message).progress_text == "x" * 254 + "…"


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"], ids=ascii)
def test_what_no_database_takes_is_left_out_of_a_text(state, broker, database, text):
    """While it runs, and in the end: PostgreSQL would take neither this row nor any other."""
    message = make_message({})
    with running(state, broker, message):
        taskstate.set_progress(1, text=text)
        state._writer.thread._step_safely()
        assert (task_of(message).status, task_of(message).progress_text) == ("running", "ab")
    state._writer.thread._step_safely()
    assert (task_of(message).status, task_of(message).progress_text) == ("done", "ab")


def test_outside_of_a_tracked_message_nothing_happens(state, broker):
    """The same function runs anywhere."""
    assert taskstate.current_task_id() is None
    taskstate.set_progress(1, 2)
    taskstate.set_result(1)
    assert list(taskstate.track([1, 2])) == [1, 2]

    with running(state, broker, make_message(None)):
        assert taskstate.current_task_id() is None
        taskstate.set_progress(1, 2)
    assert len(state._writer._buffer) == 0


def test_a_run_ends_when_its_message_does(state, broker, sqlite):
    """Progress that a thread reports later belongs neither to it nor to the next message."""
    first, second = make_message({}), make_message({})
    with running(state, broker, first):
        left_behind = contextvars.copy_context()
        assert taskstate.current_task_id() == first.message_id
    with running(state, broker, second):
        left_behind.run(taskstate.set_progress, 99)
        left_behind.run(taskstate.set_result, "mine")
        assert taskstate.current_task_id() == second.message_id
    assert taskstate.current_task_id() is None
    state._writer.thread._step_safely()
    assert [task_of(message).progress for message in (first, second)] == [None, None]
    assert [task_of(message).result for message in (first, second)] == [None, None]


def test_ten_thousand_progress_reports_take_one_place_in_the_buffer(state, broker, sqlite):
    """While the database is stuck as well: a call changes what is on its way."""
    message = make_message({})
    buffer = state._writer._buffer
    with running(state, broker, message):
        for number in range(10_000):
            taskstate.set_progress(number, 10_000)
        assert len(buffer) == 2  # That it runs, and the report.
        buffer.coalesce()
        assert buffer.pending_count == len(buffer) == 1
        taskstate.set_progress(50)
        buffer.coalesce()
        assert buffer.pending_count == len(buffer) == 1
    state._writer.thread._step_safely()
    assert (task_of(message).progress, task_of(message).status) == (50, "done")


def test_progress_is_reported_again_after_a_report_was_dropped(state, broker):
    """The next call reports, though the buffer had no room for the last one."""
    buffer = Buffer(1, FieldCollector().normalize)
    run = Run(make_message({}), {})
    run.progress = Progress(1.0, "", clock.now())
    run.is_reporting = True
    buffer.queue.push_deferred(run)
    for _ in range(QUEUE_ITEMS_PER_PENDING):
        buffer.queue.push(make_transition())
    assert buffer.dropped == 1
    assert not run.is_reporting


def test_a_forked_child_of_an_actor_reports(state, broker, sqlite):
    """Although a report was pending in the parent when it was forked."""
    message = make_message({})
    with running(state, broker, message):
        taskstate.set_progress(1)
        state._writer.after_fork_in_child()
        taskstate.set_progress(50)
        state._writer.thread._step_safely()
        assert task_of(message).progress == 50


def test_no_two_reports_of_a_run_are_equal(monkeypatch, broker, state):
    """Though they are made in the same millisecond: the later one wins."""
    monkeypatch.setattr(clock, "time_ns", lambda: START * 1_000_000)
    pushed = []
    monkeypatch.setattr(state._writer.queue, "push", pushed.append)
    monkeypatch.setattr(state, "_push_deferred", pushed.append)
    with running(state, broker, make_message({})):
        taskstate.set_progress(80)
        first = pushed[-1].to_transition()
        taskstate.set_progress(10)
        second = pushed[-1].to_transition()
    started, *_, done = (transition for transition in pushed if isinstance(transition, tuple))
    assert started[RANK] < first[RANK] < second[RANK] < done[RANK]
    assert [each[DETAILS].progress for each in (first, second, done)] == [80, 10, 10]


@pytest.fixture
def announced():
    """The signals of this test: status, progress and transitions."""
    signals = []

    def note(sender, task, transitions, **kwargs):
        signals.append((task.status, task.progress, transitions))

    task_changed.connect(note, sender=StateMiddleware)
    yield signals
    task_changed.disconnect(note, sender=StateMiddleware)


@pytest.mark.parametrize("flushes", [True, False])
def test_progress_alone_is_announced_without_transitions(flushes, database, announced):
    """A receiver can distinguish it from a start, which is in the transitions once."""
    broker = make_broker()

    @dramatiq.actor(broker=broker, actor_name="act")
    def act(for_state=None):
        for number in range(10):
            taskstate.set_progress(number, 10)
            assert not flushes or taskstate.flush(LIMIT_SECONDS)

    act.send(for_state={})
    with Workers(broker) as workers:
        workers.finish()

    statuses = [status for *_, transitions in announced for status in transitions]
    assert statuses.count(Status.RUNNING) == statuses.count(Status.DONE) == 1
    if flushes:
        assert [row[1:] for row in announced[-10:-1]] == [(10 * n, ()) for n in range(1, 10)]
    assert announced[-1][1] == 90
    assert announced[-1][2][-1] == Status.DONE


def test_each_start_is_announced_once(sqlite, announced):
    """That of each attempt, which reports its progress as well."""
    broker = make_broker()

    @dramatiq.actor(broker=broker, actor_name="act", max_retries=2)
    def act(for_state=None):
        for number in range(3):
            taskstate.set_progress(number, 3, "counting")
            assert taskstate.flush(LIMIT_SECONDS)
        raise Boom

    act.send(for_state={})
    with Workers(broker) as workers:
        workers.finish()

    statuses = [status for *_, transitions in announced for status in transitions]
    assert statuses.count(Status.RUNNING) == 3
    assert statuses.count(Status.FAILED) == 1
    assert [transitions for status, *_, transitions in announced if not transitions]


def test_a_retry_starts_without_progress(database):
    """The progress of the run that failed is not the next one's."""
    seen = []
    broker = make_broker()

    @dramatiq.actor(broker=broker, actor_name="act", max_retries=1)
    def act(for_state=None):
        assert taskstate.flush(LIMIT_SECONDS)
        seen.append(Task.objects.get(pk=taskstate.current_task_id()).progress)
        if len(seen) == 1:
            taskstate.set_progress(90)
            raise ValueError("no")

    message = act.send(for_state={})
    with Workers(broker) as workers:
        workers.finish()
    assert seen == [None, None]
    assert task_of(message).progress is None


@pytest.mark.parametrize("position", POSITIONS)
def test_the_error_of_an_attempt_is_not_that_of_a_later_one(position, sqlite):
    """A run that goes well and puts itself off, by the project's own code, has no error."""
    broker = make_broker(dm.CurrentMessage(), position=position)
    runs_so_far = []

    @dramatiq.actor(broker=broker, actor_name="act", for_state={})
    def act():
        runs_so_far.append(1)
        if len(runs_so_far) == 1:
            raise ValueError("first")
        message = dm.CurrentMessage.get_current_message()
        broker.enqueue(message.copy(queue_name="later"))

    broker.declare_queue("later")
    message = act.send()
    with Workers(broker) as workers:
        workers.finish()
    task = task_of(message)
    assert (task.status, task.error, task.traceback) == ("enqueued", None, None)


# track.


def test_track_reports_progress_after_each_item(state, broker, sqlite, monkeypatch):
    """Of how many there are."""
    reported = []
    monkeypatch.setattr(progress, "_report", lambda run, push, *what: reported.append(what))
    with running(state, broker, make_message({})):
        assert list(taskstate.track("abcd", "letters")) == list("abcd")
    assert reported == [(percent, "letters") for percent in (0, 25, 50, 75, 100)]


def test_track_accepts_an_iterable_whose_length_raises():
    """As a loader of data does that streams."""

    class Stream:
        def __len__(self):
            raise TypeError

        def __iter__(self):
            return iter("ab")

    assert "".join(taskstate.track(Stream())) == "ab"


def test_track_reports_no_percentage_without_a_length(state, broker, sqlite):
    """But what it is doing."""
    message = make_message({})
    with running(state, broker, message):
        assert list(taskstate.track(iter("ab"), "letters")) == ["a", "b"]
    state._writer.thread._step_safely()
    assert (task_of(message).progress, task_of(message).progress_text) == (None, "letters")


class Letters:
    """Asynchronous, and of a known length."""

    def __len__(self):
        return 2

    async def __aiter__(self):
        yield "a"
        yield "b"


@pytest.mark.parametrize("letters", [Letters(), "ab"])
def test_track_can_be_iterated_asynchronously(state, broker, monkeypatch, letters):
    """Whether or not the items are."""
    reported = []
    monkeypatch.setattr(progress, "_report", lambda run, push, *what: reported.append(what))

    async def collect():
        return [letter async for letter in taskstate.track(letters)]

    with running(state, broker, make_message({})):
        assert asyncio.run(collect()) == ["a", "b"]
    assert reported == [(0, ""), (50, ""), (100, "")]


@pytest.fixture
def reported(monkeypatch):
    """What track() reports: percentages and texts, in their order."""
    monkeypatch.setattr(progress, "_warnings", ActorWarnings(progress.logger))
    reported = []
    monkeypatch.setattr(progress, "_report", lambda run, push, *what: reported.append(what))
    return reported


@pytest.mark.parametrize(
    ("total", "percentages"),
    [
        (4, [0, 25, 50]),
        (2.5, [0, 40, 80]),
        (Decimal(4), [0, 25, 50]),
        (1, [0, 100, 100]),
        (0, [100, 100, 100]),
        (None, [None]),
    ],
)
@pytest.mark.parametrize("is_async", [False, True], ids=["for", "async for"])
def test_track_takes_a_total(state, broker, reported, total, percentages, is_async):
    """For iterators, which have no length; more items than the total leave it at 100 percent."""

    async def letters():
        for letter in "ab":
            yield letter

    async def collect():
        return [letter async for letter in taskstate.track(letters(), "letters", total=total)]

    with running(state, broker, make_message({})):
        if is_async:
            assert asyncio.run(collect()) == ["a", "b"]
        else:
            assert list(taskstate.track(iter("ab"), "letters", total=total)) == ["a", "b"]
    assert reported == [(percent, "letters") for percent in percentages]


def test_a_total_comes_before_a_length(state, broker, reported):
    """The length of a queryset would load all rows."""

    class Rows:
        def __len__(self):
            raise AssertionError

        def __iter__(self):
            return iter("ab")

    with running(state, broker, make_message({})):
        assert list(iter(taskstate.track(Rows(), total=4))) == ["a", "b"]
    assert [percent for percent, _ in reported] == [0, 25, 50]


def test_a_total_is_no_length():
    """It may be an estimate; list() would reserve memory for so many items."""
    assert len(taskstate.track("ab", total=10**15)) == 2
    with pytest.raises(TypeError):
        len(taskstate.track(iter("ab"), total=2))
    assert list(taskstate.track(iter("ab"), total=10**15)) == ["a", "b"]


@pytest.mark.parametrize(
    ("total", "named"),
    [
        (-3, "a total of -3;"),
        (float("inf"), "a total of inf;"),
        (float("nan"), "a total of type float;"),
        (10**400, "a total of type int;"),
        (True, "a total of type bool;"),
        ("secret", "a total of type str;"),
        ([], "a total of type list;"),
        (Vector(), "a total of type Vector;"),
    ],
    ids=range(8),
)
def test_a_bad_total_does_not_stop_the_loop(state, broker, reported, total, named, caplog):
    """That is logged once per actor, with what to do; the length is used if there is one."""
    with running(state, broker, make_message({})):
        assert list(taskstate.track(iter("ab"), "letters", total=total)) == ["a", "b"]
        assert list(taskstate.track("ab", total=total)) == ["a", "b"]
    assert reported == [(None, "letters"), (0, ""), (50, ""), (100, "")]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert named in caplog.text
    assert "track(items, total=count)" in caplog.text
    assert "secret" not in caplog.text


def test_outside_of_a_tracked_message_a_bad_total_is_ignored(caplog):
    """As all of track() is."""
    assert list(taskstate.track(iter("ab"), total=-1)) == ["a", "b"]
    assert not caplog.records


def test_greenlets_find_their_run(state, broker):
    """Those that take turns in one thread, as under rundramatiq --use-gevent."""

    def work(message):
        with running(state, broker, message):
            gevent.sleep(0)
            return taskstate.current_task_id()

    messages = [make_message({}) for _ in range(3)]
    greenlets = [gevent.spawn(work, message) for message in messages]
    gevent.joinall(greenlets, timeout=LIMIT_SECONDS)
    assert [greenlet.value for greenlet in greenlets] == [m.message_id for m in messages]


if hasattr(dm, "AsyncIO"):

    def test_coroutines_find_their_run(sqlite):
        """Several at once, in the event loop's thread."""
        broker = make_broker(dm.AsyncIO())
        both = threading.Barrier(2, timeout=LIMIT_SECONDS)

        @dramatiq.actor(broker=broker, actor_name="act")
        async def act(number, for_state=None):
            await asyncio.get_running_loop().run_in_executor(None, both.wait)
            taskstate.set_progress(number)
            taskstate.set_result({"id": taskstate.current_task_id()})

        messages = [act.send(number, for_state={}) for number in (10, 20)]
        with Workers(broker, threads=2) as workers:
            workers.finish()
        assert [task_of(message).progress for message in messages] == [10, 20]
        assert all(task_of(m).result == {"id": m.message_id} for m in messages)

    def test_in_a_coroutine_progress_that_is_written_at_once_waits(sqlite, settings, caplog):
        """Django writes nothing in an event loop: the next state carries it, without an error."""
        settings.TASKSTATE = {"SYNCHRONOUS": True}
        broker = make_broker(dm.AsyncIO())

        @dramatiq.actor(broker=broker, actor_name="act")
        async def act(for_state=None):
            taskstate.set_progress(50)

        message = act.send(for_state={})
        with Workers(broker) as workers:
            workers.finish()
        assert task_of(message).progress == 50
        assert not [record for record in caplog.records if record.name.startswith("taskstate")]


# Results.


@pytest.mark.parametrize(
    "value", [{"rows": [1, 2.5, None, True, "Grüße 😀"]}, [], "text", 0, {"a": {"b": {}}}]
)
def test_a_result_is_kept(database, value):
    """As JSON has it, in the final row."""
    broker = make_broker()

    @dramatiq.actor(broker=broker, actor_name="act")
    def act(for_state=None):
        taskstate.set_result(value)

    message = act.send(for_state={})
    with Workers(broker) as workers:
        workers.finish()
    assert task_of(message).result == value


def test_none_is_no_result(state, broker, database):
    """Whichever store writes it, a query finds it by IS NULL."""
    message = make_message({})
    with running(state, broker, message):
        taskstate.set_result(1)
        taskstate.set_result(None)
    state._writer.thread._step_safely()
    assert Task.objects.get(result__isnull=True).pk == task_of(message).pk


@pytest.mark.parametrize(("value", "error"), NOT_JSON, ids=range(len(NOT_JSON)))
def test_an_invalid_result_raises_an_error(value, error):
    """The error states why, and where to put it instead; outside of an actor as well."""
    with pytest.raises(ValueError, match=error) as caught:
        taskstate.set_result(value)
    assert "Store large data elsewhere" in str(caught.value)


def test_deeply_nested_json_raises_an_error():
    """MariaDB reads 32 levels; Python's own encoder fails at a thousand."""
    deep = []
    for _ in range(sanitize.JSON_DEPTH - 1):
        deep = [deep]
    taskstate.set_result(deep)
    with pytest.raises(ValueError, match="more than 30 levels"):
        taskstate.set_result([deep])
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match="RecursionError"):
        taskstate.set_result(deep)


def test_an_escaped_backslash_is_no_nul():
    r"""The text ``\u0000``, six characters of it, is as good as any."""
    assert sanitize.clean_json("\\u0000 \\ud800", 100) == '"\\\\u0000 \\\\ud800"'


# Failures.


class Boom(Exception):
    """What the actors raise."""


@pytest.mark.parametrize("position", POSITIONS)
def test_why_it_failed_stays_until_it_is_done(position, database):
    """While the retry waits, after it is queued again, and while it runs."""
    seen = []
    broker = make_broker(position=position)

    def note(sender, task, transitions, **kwargs):
        seen.append(task)

    @dramatiq.actor(
        broker=broker, actor_name="act", max_retries=2, min_backoff=300, max_backoff=300
    )
    def act(for_state=None):
        assert taskstate.flush(LIMIT_SECONDS)
        if len([t for t in seen if t.status == "running"]) < 3:
            raise Boom("no\n  luck")

    task_changed.connect(note, sender=StateMiddleware)
    try:
        message = act.send(for_state={})
        with Workers(broker) as workers:
            workers.finish()
    finally:
        task_changed.disconnect(note, sender=StateMiddleware)

    first, *between, last = (t for t in seen if t.status in {"running", "done"})
    assert first.error is None
    assert {task.error for task in between} == {"Boom: no luck"}
    assert all(task.traceback.endswith("Boom: no\n  luck") for task in between)
    assert (last.status, last.error, last.traceback) == ("done", None, None)
    delayed = [task for task in seen if task.status == "delayed"]
    assert delayed
    for task in delayed:
        assert task.error == "Boom: no luck"
        assert task.next_attempt_at > task.updated_at
        assert task.worker is None
    assert all(task.next_attempt_at is None for task in seen if task.status != "delayed")
    assert all((task.worker is None) == (task.status in {"enqueued", "delayed"}) for task in seen)
    assert task_of(message).error is None


@pytest.mark.parametrize("position", POSITIONS)
def test_a_failed_task_has_the_error_and_the_traceback(position, database):
    """Without a retry before it."""
    broker = make_broker(position=position)

    @dramatiq.actor(broker=broker, actor_name="act", max_retries=0)
    def act(for_state=None):
        try:
            {}["first"]
        except KeyError:
            raise Boom("then") from None

    message = act.send(for_state={})
    with Workers(broker) as workers:
        workers.finish()
    task = task_of(message)
    assert (task.status, task.error) == ("failed", "Boom: then")
    assert 'raise Boom("then") from None' in task.traceback
    assert "KeyError" not in task.traceback


def deepest(levels):
    if levels:
        deepest(levels - 1)
    else:
        the_innermost = Boom()
        raise the_innermost


class Unreadable(Exception):
    """Nothing of it can be made text."""

    def __str__(self):
        raise ZeroDivisionError


def caught(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:
        return error


def unreadable():
    raise Unreadable


@pytest.mark.parametrize("levels", [0, 50, 900])
def test_of_a_long_traceback_the_innermost_end_is_kept(levels):
    """It states what went wrong."""
    text = sanitize.format_traceback(caught(deepest, levels))
    assert len(text) <= sanitize.TRACEBACK_LENGTH
    assert "raise the_innermost" in text
    assert text.endswith("Boom")


def test_an_exception_that_can_not_be_read_is_named_by_its_type():
    """Its type is known at least, in one line."""
    assert sanitize.describe_exception(Boom()) == "Boom"
    assert sanitize.describe_exception(Boom("a\0\nb \ud800")) == "Boom: a b"
    assert (
        sanitize.describe_exception(caught(unreadable)) == "Unreadable: (its message can't be read)"
    )
    assert len(sanitize.describe_exception(Boom("x" * 10**6))) == sanitize.ERROR_LENGTH
    assert "Unreadable" in sanitize.format_traceback(caught(unreadable))


def test_the_error_in_the_options_of_a_message_is_sanitized(state, broker, sqlite):
    """Its options come from anywhere."""
    options = {
        message_options.STAMP_OPTION: 2,
        message_options.ERROR_OPTION: ["x\n\0" * 1000],
        message_options.TRACEBACK_OPTION: 7,
        "eta": "soon",
    }
    message = make_message({}, options=options)
    state.after_enqueue(broker, message, 1)
    state._writer.thread._step_safely()
    task = task_of(message)
    assert (len(task.error), task.traceback, task.next_attempt_at) == (255, "7", None)


# What makes a message tracked.


@pytest.fixture
def declared():
    """An actor whose messages are all tracked, without a parameter for it."""
    broker = make_broker()

    @dramatiq.actor(
        broker=broker, actor_name="act", for_state={"description": "Nightly", "app_name": "shop"}
    )
    def act(**kwargs):
        taskstate.set_result(sorted(kwargs))

    return act


@pytest.mark.parametrize(
    ("send", "expected"),
    [
        (lambda act: act.send(), ("Nightly", "shop", [])),
        (
            lambda act: act.send_with_options(for_state={"description": "Now"}),
            ("Now", "shop", []),
        ),
        (
            lambda act: act.send_with_options(
                kwargs={"for_state": {"app_name": "own"}}, for_state={"description": "Now"}
            ),
            ("Nightly", "own", ["for_state"]),
        ),
        (lambda act: act.send(for_state=[1]), ("Nightly", "shop", ["for_state"])),
        (lambda act: act.send_with_options(for_state=7), ("Nightly", "shop", [])),
    ],
)
def test_an_actor_may_be_tracked_as_a_whole(declared, sqlite, send, expected):
    """Keys of the message win over the actor's; its argument stands for its option."""
    message = send(declared)
    with Workers(declared.broker) as workers:
        workers.finish()
    task = task_of(message)
    assert (task.description, task.app_name, task.result) == expected


def test_a_message_may_be_tracked_by_an_option(sqlite):
    """Its actor needs no parameter for that."""
    broker = make_broker()
    act = dramatiq.actor(lambda: None, broker=broker, actor_name="act")
    message = act.send_with_options(for_state={"description": "this one"})
    act.send()
    with Workers(broker) as workers:
        workers.finish()
    assert task_of(message).description == "this one"
    assert Task.objects.count() == 1


def test_an_actor_whose_for_state_is_no_dictionary(caplog, sqlite):
    """That is logged when it is declared, and nothing is tracked by it."""
    broker = make_broker()
    act = dramatiq.actor(lambda: None, broker=broker, actor_name="act", for_state="Nightly")
    assert "Actor act is declared with for_state='Nightly'" in caplog.text
    act.send()
    with Workers(broker) as workers:
        workers.finish()
    assert not Task.objects.exists()


# Metadata, and the message itself.


def test_metadata_is_stored_as_given_and_filterable(database):
    """Any small JSON."""
    broker = make_broker()
    act = dramatiq.actor(lambda for_state: None, broker=broker, actor_name="act")
    metadata = {"report": 7, "tags": ["a", "ü"]}
    message = act.send(for_state={"metadata": metadata})
    act.send(for_state={"metadata": {"report": 8}})
    with Workers(broker) as workers:
        workers.finish()
    assert task_of(message).metadata == metadata
    assert Task.objects.get(metadata__report=7) == task_of(message)


def test_metadata_is_taken_at_the_push(state, broker, sqlite):
    """What the caller does with it afterward changes nothing."""
    metadata = {"a": [1]}
    message = make_message({"metadata": metadata})
    state.after_enqueue(broker, message, None)
    metadata["a"].append(2)
    state._writer.thread._step_safely()
    assert task_of(message).metadata == {"a": [1]}


@pytest.mark.parametrize("value", [{1, 2}, "x" * sanitize.METADATA_LENGTH, "\0", float("inf")])
def test_bad_metadata_costs_nothing_else(state, broker, sqlite, value, caplog):
    """That is logged once per actor."""
    message = make_message({"metadata": value, "description": "kept"})
    state.after_enqueue(broker, message, None)
    state.before_process_message(broker, MessageProxy(message))
    state._writer.thread._step_safely()
    assert (task_of(message).description, task_of(message).metadata) == ("kept", None)
    assert caplog.text.count("is tracked without its metadata") == 1


def test_the_message_is_stored_if_that_is_asked_for(database, settings):
    """With its arguments, so that it can be sent again."""
    settings.TASKSTATE = {"KEEP_MESSAGE": True}
    broker = make_broker()
    act = dramatiq.actor(lambda a, for_state: None, broker=broker, actor_name="act")
    message = act.send("Grüße", for_state={})
    with Workers(broker) as workers:
        workers.finish()
    stored = dramatiq.Message.decode(task_of(message).stored_message.encode())
    assert (stored.message_id, stored.args) == (message.message_id, ("Grüße",))

    settings.TASKSTATE = {}
    message = act.send("secret", for_state={})
    with Workers(broker) as workers:
        workers.finish()
    assert task_of(message).stored_message is None


def test_a_message_that_is_too_large_is_not_stored(state, broker, sqlite, settings, caplog):
    """It is tracked as usual."""
    settings.TASKSTATE = {"KEEP_MESSAGE": True}
    message = make_message({}, args=("x" * sanitize.STORED_MESSAGE_LENGTH,))
    state.after_enqueue(broker, message, None)
    state._writer.thread._step_safely()
    assert task_of(message).stored_message is None
    assert "is not kept (TASKSTATE['KEEP_MESSAGE'])" in caplog.text
