"""Every way a message can end, with real workers, at every position, in every database.

Each scenario sends messages and states what their rows must be.  It runs twice: buffered, and
written synchronously, where each transition is announced by itself, so that every signal on
the way can be held against the story.
"""

import re
import threading
import time

import dramatiq
import pytest
from django.core.exceptions import ObjectDoesNotExist
from dramatiq import middleware as dm
from dramatiq.middleware.threading import raise_thread_exception
from dramatiq.middleware.time_limit import TimeLimitExceeded

import taskstate
from taskstate.middleware import StateMiddleware
from taskstate.transitions.status import FINISHED
from tests.support.harness import AGE_LIMIT_SKIPS, POSITIONS, Workers, make_broker, task_of
from tests.support.limits import LIMIT_SECONDS

STATE = {
    "user_pk": "42",
    "model_name": "Invoice",
    "app_name": "shop",
    "description": "Export 7",
    "something_else": [1, 2, 3],
}
FIELDS = {"user_id": 42, "model_name": "Invoice", "app_name": "shop", "description": "Export 7"}


ACTOR_NOT_FOUND = (
    "ActorNotFound: this worker does not know actor 'act'; was it restarted after the last "
    "deployment?"
)


class Boom(Exception):
    """What failing actors raise."""


class Story:
    """What a scenario sets up, and what must come of it.

    Parameters: those of ``make_broker``.
    """

    def __init__(self, *others, **options):
        self.broker = make_broker(*others, **options)
        #: Message, and the fields of its row.
        self.tasks = []
        #: The statuses that must be announced, in order, one by one, when written at once; "?"
        #: marks one that a faster later one may overtake.
        self.signals = None
        self.before = time.time()
        #: What else has to be done while the workers run.
        self.then = None
        #: Whether it takes a second worker to finish the work.
        self.restarts = False
        #: Whether the end comes from the consumer's thread, which must not wait.
        self.tells_from_consumer = False
        #: Whether the task fails for good, and comes back all the same.
        self.comes_back = False

    def actor(self, fn=None, **options):
        """Declare an actor; by default one that has nothing to do."""
        options.setdefault("actor_name", "act")
        return dramatiq.actor(fn or (lambda for_state=None: None), broker=self.broker, **options)

    def expect(self, message, signals, **fields):
        self.tasks.append((message, fields))
        self.signals = signals.split()


def failing(times):
    """Return a function that fails so many times, and then does its work."""
    runs = []

    def act(for_state=None):
        runs.append(time.time())
        if len(runs) <= times:
            raise Boom

    act.runs = runs
    return act


SCENARIOS = []


def scenario(fn):
    SCENARIOS.append(fn)
    return fn


@scenario
def done(position):
    story = Story(position=position)
    message = story.actor().send(for_state=STATE)
    story.expect(message, "enqueued running done", status="done", attempt=1)
    return story


@scenario
def empty_state(position):
    story = Story(position=position)
    message = story.actor().send(for_state={})
    values = {"user_id": None, "model_name": "", "app_name": "", "description": ""}
    story.expect(message, "enqueued running done", status="done", attempt=1, **values)
    return story


@scenario
def failed_for_good(position):
    story = Story(position=position)
    message = story.actor(failing(1), max_retries=0).send(for_state=STATE)
    story.expect(message, "enqueued running failed", status="failed", attempt=1)
    return story


@scenario
def throws(position):
    story = Story(position=position)
    message = story.actor(failing(1), throws=Boom).send(for_state=STATE)
    story.expect(message, "enqueued running failed", status="failed", attempt=1)
    return story


@scenario
def done_on_retry(position):
    story = Story(position=position)
    fn = failing(2)
    message = story.actor(fn, max_retries=3).send(for_state=STATE)
    signals = "enqueued running delayed? enqueued? running delayed? enqueued? running done"
    story.expect(
        message,
        signals,
        status="done",
        attempt=3,
        # The first run's start stays.
        started_before=lambda: fn.runs[0],
    )
    return story


@scenario
def retries_exhausted(position):
    story = Story(position=position)
    fn = failing(9)
    message = story.actor(fn, max_retries=1).send(for_state=STATE)
    story.expect(
        message,
        "enqueued running delayed? enqueued? running failed",
        status="failed",
        attempt=2,
        started_before=lambda: fn.runs[0],
    )
    return story


@scenario
def skipped_by_age_limit(position):
    story = Story(position=position)
    act = story.actor(max_age=1)
    message = act.message_with_options(kwargs={"for_state": STATE})
    story.broker.enqueue(older(message))
    if AGE_LIMIT_SKIPS:
        # Listed before AgeLimit, we see the run begin.
        signals = "enqueued running? skipped"
        story.expect(message, signals, status="skipped", attempt=1, started=False)
    else:
        signals = "enqueued running failed"
        story.expect(message, signals, status="failed", attempt=1)
    story.tasks[0][1]["enqueued_at_ms"] = message.message_timestamp - 60_000
    return story


def older(message):
    """Return the message as if it had been made a minute ago."""
    return dramatiq.Message(
        **{**message.asdict(), "message_timestamp": message.message_timestamp - 60_000}
    )


@scenario
def skipped_by_the_actor(position):
    story = Story(position=position)

    def skip(for_state=None):
        raise dm.SkipMessage

    message = story.actor(skip).send(for_state=STATE)
    story.expect(message, "enqueued running skipped", status="skipped", attempt=1, started=False)
    return story


class SkipOnce(dm.Middleware):
    """Puts the first run off, as rate limiters do."""

    def __init__(self, delay):
        self.delay = delay
        self.skipped = False

    def before_process_message(self, broker, message):
        if not self.skipped:
            self.skipped = True
            broker.enqueue(message, delay=self.delay)
            raise dm.SkipMessage


@scenario
def skipped_and_sent_again_with_a_delay(position):
    story = Story(SkipOnce(1), position=position)
    message = story.actor().send(for_state=STATE)
    signals = "enqueued running? delayed? enqueued? running done"
    story.expect(message, signals, status="done", attempt=1)
    return story


@scenario
def skipped_and_sent_again_at_once(position):
    story = Story(SkipOnce(None), position=position)
    message = story.actor().send(for_state=STATE)
    signals = "enqueued running? enqueued? running done"
    story.expect(message, signals, status="done", attempt=1)
    return story


@scenario
def delayed(position):
    story = Story(position=position)
    message = story.actor().send_with_options(kwargs={"for_state": STATE}, delay=0)
    signals = "delayed enqueued? running done"
    story.expect(message, signals, status="done", attempt=1)
    return story


@scenario
def message_fail(position):
    class FailIt(dm.Middleware):
        def before_process_message(self, broker, message):
            message.fail()

    story = Story(FailIt(), position=position)
    message = story.actor().send(for_state=STATE)
    story.expect(message, "enqueued running failed", status="failed", attempt=1)
    return story


@scenario
def unknown_actor(position):
    story = Story(position=position)
    message = story.actor().message(for_state=STATE)
    story.broker.enqueue(message)
    del story.broker.actors["act"]
    story.tells_from_consumer = True
    story.expect(
        message, "enqueued failed", status="failed", attempt=1, started=False, error=ACTOR_NOT_FOUND
    )
    return story


@scenario
def unknown_actor_of_a_retry(position):
    """The worker that takes the retry was not restarted: when and why it began to fail stays."""

    class Forget(dm.Middleware):
        def before_enqueue(self, broker, message, delay):
            if delay is not None:
                del broker.actors["act"]

    story = Story(Forget(), position=position)
    fn = failing(1)
    message = story.actor(fn, max_retries=1).send(for_state=STATE)
    story.tells_from_consumer = True
    story.expect(
        message,
        "enqueued running delayed? enqueued? failed",
        status="failed",
        attempt=2,
        error=f"{ACTOR_NOT_FOUND} The attempt before: Boom",
        started_before=lambda: fn.runs[0],
    )
    return story


@scenario
def no_retries_middleware(position):
    story = Story(position=position, retries=False)
    message = story.actor(failing(1)).send(for_state=STATE)
    story.expect(message, "enqueued running failed", status="failed", attempt=1)
    return story


@scenario
def time_limit_in_the_actor(position):
    story = Story(position=position)

    def endless(for_state=None):
        # As the TimeLimit middleware does it, but surely in the actor: written synchronously,
        # a hook may take as long as a limit that a test can wait for.
        raise_thread_exception(threading.get_ident(), TimeLimitExceeded)
        deadline = time.monotonic() + LIMIT_SECONDS
        while time.monotonic() < deadline:
            pass

    message = story.actor(endless, max_retries=0).send(for_state=STATE)
    story.expect(message, "enqueued running failed", status="failed", attempt=1)
    return story


class Interrupted(StateMiddleware):
    """Ours, with an exception injected at the end of a hook, once, as TimeLimit does."""

    def __init__(self, hook):
        super().__init__()
        self.interrupted = False
        original = getattr(self, hook)

        def interrupted(*args, **kwargs):
            original(*args, **kwargs)
            if not self.interrupted:
                self.interrupted = True
                raise TimeLimitExceeded

        setattr(self, hook, interrupted)


@scenario
def time_limit_in_our_before_hook(position):
    story = Story(state=Interrupted("before_process_message"), position=position)
    message = story.actor(max_retries=1).send(for_state=STATE)
    signals = "enqueued running delayed? enqueued? running done"
    story.expect(message, signals, status="done", attempt=2)
    return story


@scenario
def time_limit_in_our_after_hook(position):
    """Dramatiq calls the hook twice: first for a success, then for a failure."""
    story = Story(state=Interrupted("after_process_message"), position=position)
    message = story.actor(max_retries=1).send(for_state=STATE)
    signals = "enqueued running delayed? enqueued? running done"
    story.expect(message, signals, status="done", attempt=2)
    return story


@scenario
def time_limit_in_our_after_hook_for_good(position):
    story = Story(state=Interrupted("after_process_message"), position=position)
    message = story.actor(max_retries=0).send(for_state=STATE)
    story.expect(message, "enqueued running failed", status="failed", attempt=1)
    return story


@scenario
def shutdown(position):
    """The worker is stopped in mid-run; the message is retried by the next one."""
    story = Story(position=position)
    running = threading.Event()

    def wait(for_state=None):
        if not running.is_set():
            running.set()
            deadline = time.monotonic() + LIMIT_SECONDS
            while time.monotonic() < deadline:
                pass

    message = story.actor(wait, notify_shutdown=True, max_retries=1).send(for_state=STATE)

    def stop_the_first_worker(workers):
        assert running.wait(LIMIT_SECONDS)

    story.then = stop_the_first_worker
    story.restarts = True
    signals = "enqueued running delayed? enqueued? running done"
    story.expect(message, signals, status="done", attempt=2)
    return story


@scenario
def interrupted_before_our_hook(position):
    """An exception in an earlier hook keeps ours from seeing the run begin: still a retry."""

    class Interrupt(dm.Middleware):
        interrupted = False

        def before_process_message(self, broker, message):
            if not self.interrupted:
                self.interrupted = True
                raise TimeLimitExceeded

    story = Story(Interrupt(), position=position)
    message = story.actor(max_retries=1).send(for_state=STATE)
    signals = "enqueued running? delayed? enqueued? running done"
    story.expect(message, signals, status="done", attempt=2)
    return story


@scenario
def another_message_sent_after_the_retry(position):
    """What else a failing run sends doesn't hide that it is retried."""

    class Notify(dm.Middleware):
        def after_process_message(self, broker, message, *, result=None, exception=None):
            if exception is not None:
                notify.send(for_state={})

    story = Story(Notify(), position=position)
    notify = story.actor(actor_name="notify")
    message = story.actor(failing(1), max_retries=1).send(for_state=STATE)
    signals = "enqueued running delayed? enqueued? running done"
    story.expect(message, signals, status="done", attempt=2)
    return story


@scenario
def sent_again_by_its_own_actor(position):
    """No retry: the second run's start is its own."""
    story = Story(dm.CurrentMessage(), position=position)
    runs = []

    def again(for_state=None):
        runs.append(time.time())
        if len(runs) == 1:
            story.broker.enqueue(dm.CurrentMessage.get_current_message(), delay=1)

    message = story.actor(again).send(for_state=STATE)
    # The first run's "done" is older than the message that it sent.
    signals = "enqueued running delayed? enqueued? running done"
    story.expect(message, signals, status="done", attempt=1, started_after=lambda: runs[0])
    return story


@scenario
def dead_letter_sent_again(position):
    """Even with its retries reset it is newer than its last run."""
    story = Story(position=position)
    fn = failing(2)
    message = story.actor(fn, max_retries=1).send(for_state=STATE)

    def resend(workers):
        workers.finish()
        (dead,) = story.broker.dead_letters_by_queue["default"]
        options = {key: dead.options[key] for key in dead.options if key.startswith("taskstate")}
        story.broker.enqueue(dramatiq.Message(**{**dead.asdict(), "options": options}))

    story.then = resend
    story.comes_back = True
    signals = "enqueued running delayed? enqueued? running failed enqueued? running done"
    story.expect(
        message,
        signals,
        status="done",
        attempt=1,
        started_before=lambda: fn.runs[0],
    )
    return story


@scenario
def run_twice_after_a_crash(position):
    """The broker delivers a message again whose ack it never got: the later run counts."""
    story = Story(position=position)
    fn = failing(0)
    message = story.actor(fn).message(for_state=STATE)
    story.broker.enqueue(message)
    data = story.broker.queues["default"].queue[0]

    def deliver_again(workers):
        workers.finish()
        story.broker.queues["default"].put(data)

    story.then = deliver_again
    story.expect(
        message,
        # The second "running" is older than the first "done": the same stamp, an earlier phase.
        "enqueued running done done",
        status="done",
        attempt=1,
        started_after=lambda: fn.runs[0],
    )
    return story


@scenario
def retry_that_can_not_be_enqueued(position):
    """Dramatiq swallows the error and acknowledges the message: it will not run again."""

    class Broken(dm.Middleware):
        def before_enqueue(self, broker, message, delay):
            if delay is not None:
                raise dm.MiddlewareError

    story = Story(Broken(), position=position)
    message = story.actor(failing(1), max_retries=1).send(for_state=STATE)
    story.expect(message, "enqueued running failed", status="failed", attempt=1)
    return story


@scenario
def pipeline_sent_twice(position):
    story = Story(position=position)
    first = story.actor(actor_name="first")
    second = story.actor(actor_name="second")
    one = first.message(for_state=STATE)
    two = second.message_with_options(kwargs={"for_state": STATE}, pipe_ignore=True)
    for _ in range(2):
        dramatiq.pipeline([one, two], broker=story.broker).run()
    story.expect(one, "", status="done", attempt=1, actor_name="first")
    story.expect(two, "", status="done", attempt=1, actor_name="second")
    story.signals = None
    return story


@pytest.mark.parametrize("synchronous", [False, True], ids=["buffered", "synchronous"])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda fn: fn.__name__)
def test_outcome(scenario, position, synchronous, database, settings, signals):
    """The final row, field by field, and every signal on the way."""
    settings.TASKSTATE = {"SYNCHRONOUS": synchronous}
    story = scenario(position)
    with Workers(story.broker) as workers:
        if story.then is not None:
            story.then(workers)
        if not story.restarts:
            workers.finish()
    if story.restarts:
        with Workers(story.broker) as workers:
            workers.finish()

    after = time.time()
    for message, fields in story.tasks:
        check_row(task_of(message), message, dict(fields), story.before, after)
        check_signals(
            message,
            signals,
            story.signals,
            synchronous=synchronous,
            # MariaDB doesn't know which of two threads with one transition has changed the row.
            ends_twice=synchronous and database == "mariadb",
            comes_back=story.comes_back,
        )


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda fn: fn.__name__)
def test_the_row_is_final_when_the_message_is_acknowledged(scenario, database, settings):
    """With FLUSH_BEFORE_ACK: nothing is flushed here, and the rate limit allows no flush."""
    settings.TASKSTATE = {"FLUSH_BEFORE_ACK": True, "FLUSH_INTERVAL": 3600}
    story = scenario("last")
    with Workers(story.broker) as workers:
        if story.then is not None:
            story.then(workers)
        if not story.restarts:
            check_final(story, workers)
    if story.restarts:
        with Workers(story.broker) as workers:
            check_final(story, workers)


def check_final(story, workers):
    workers.join()
    if story.tells_from_consumer:
        assert taskstate.flush(LIMIT_SECONDS)
    for message, fields in story.tasks:
        assert task_of(message).status == fields["status"]


def check_row(task, message, fields, before, after):
    started = fields.pop("started", True)
    started_before = fields.pop("started_before", lambda: after)()
    started_after = fields.pop("started_after", lambda: before - 0.001)()
    enqueued_at = fields.pop("enqueued_at_ms", message.message_timestamp)
    expected = {"actor_name": "act", "queue_name": "default", **FIELDS, **fields}
    assert {name: getattr(task, name) for name in expected} == expected
    assert str(task.message_id) == message.message_id
    assert round(task.enqueued_at.timestamp() * 1000) == enqueued_at
    if started:
        assert started_after - 0.001 <= task.started_at.timestamp() <= started_before
        assert task.started_at <= task.updated_at
    else:
        assert task.started_at is None
    assert task.status in FINISHED
    assert task.finished_at == task.updated_at
    assert before - 0.001 <= task.updated_at.timestamp() <= after
    assert task.stamp >= message.message_timestamp


def order_of(task):
    return task.stamp, task.rank


def check_signals(message, signals, story, *, synchronous, ends_twice, comes_back):
    ours = [(t, merged) for t, merged in signals if str(t.message_id) == message.message_id]
    if synchronous:
        # Written synchronously by two threads, their signals may cross after the commits.
        ours.sort(key=lambda signal: order_of(signal[0]))
    ranks = [order_of(task) for task, _ in ours]
    assert ranks == sorted(ranks), "a signal for a write that lost"
    if not ends_twice:
        # Two runs of one stamp may end in the same millisecond: then the rest of the row decides.
        rows = {(*order_of(task), task.attempt, task.started_at) for task, _ in ours}
        assert len(rows) == len(ours), "a signal for a write that changed nothing"
    for task, merged in ours:
        assert merged[-1] == task.status
    statuses = [task.status for task, _ in ours]
    assert statuses[-1] == task_of(message).status
    # A task that is retried is never announced as failed, not even as a state on the way.
    announced = [status for _, merged in ours for status in merged]
    assert announced.count("failed") == (statuses[-1] == "failed" or comes_back)
    if synchronous and story is not None:
        assert_statuses(statuses, story)


def assert_statuses(statuses, story):
    """The statuses are the story's, but for those that it marks with a question mark."""
    steps = [f"({step[:-1]} )?" if step.endswith("?") else f"{step} " for step in story]
    found = "".join(f"{status} " for status in statuses)
    assert re.fullmatch("".join(steps), found), f"{found}should be {' '.join(story)}"


def test_untracked_messages_leave_no_trace(sqlite, settings, signals):
    """No ``for_state``, or one that is no dict: no row, no stamp."""
    story = Story()
    act = story.actor()
    with Workers(story.broker) as workers:
        messages = [act.send(), act.send(for_state=None), act.send(for_state=[1])]
        workers.finish()

    for message in messages:
        assert "taskstate_stamp" not in message.options
        with pytest.raises(ObjectDoesNotExist):
            task_of(message)
    assert signals == []
