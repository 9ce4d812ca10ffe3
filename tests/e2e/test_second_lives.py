"""Messages that live twice with one id, and brokers that lose what ``before_enqueue`` sets: the row
shows the life that is going on."""

import dramatiq
import pytest
from dramatiq.broker import MessageProxy
from dramatiq.middleware import Middleware

import taskstate
from taskstate import resend
from taskstate.middleware import StateMiddleware
from taskstate.models import Task
from tests.support.brokers import AfterOnlyBroker, EagerBroker, EarlyEncodingBroker
from tests.support.harness import POSITIONS, InProcessBroker, Workers, make_broker, task_of
from tests.support.limits import LIMIT_SECONDS

STATE = {"user_pk": 1, "description": "Export 7"}


class Boom(Exception):
    """What a failing actor raises."""


class Flaky:
    """What an actor does: it fails so many times, and then works."""

    def __init__(self, failures=0):
        self.failures = failures
        self.runs = 0

    def __call__(self, *args, for_state=None):
        self.runs += 1
        if self.runs <= self.failures:
            raise Boom


def declare(broker, name, failures=0, **options):
    work = Flaky(failures)

    def act(*args, for_state=None):
        work(*args)

    return dramatiq.actor(act, broker=broker, actor_name=name, max_retries=1, **options)


@pytest.fixture(params=[InProcessBroker, EarlyEncodingBroker], ids=["carried", "lost"])
def broker(request, sqlite, settings):
    """One that carries the stamp of a message to its worker, and one that loses it."""
    settings.TASKSTATE = {"KEEP_MESSAGE": True}
    broker = make_broker(broker_class=request.param)
    before = dramatiq.get_broker()
    dramatiq.set_broker(broker)
    yield broker
    dramatiq.set_broker(before)


def make_pipeline(broker, failures):
    """Return the two messages of a pipeline: the second one fails so many times."""
    first = declare(broker, "first")
    second = declare(broker, "second", failures)
    one = first.message_with_options(kwargs={"for_state": STATE})
    two = second.message_with_options(kwargs={"for_state": STATE}, pipe_ignore=True)
    return one, two


def pipeline(broker, *messages):
    """Return a pipeline of fresh messages with the ids of these."""
    return dramatiq.pipeline([message.copy() for message in messages], broker=broker)


def work_off(broker):
    with Workers(broker) as workers:
        workers.finish()


def announced_statuses(signals, message):
    return [t.status for t, _ in signals if str(t.message_id) == message.message_id]


def test_a_pipeline_that_runs_again(broker, signals):
    """What failed for good in its first life, after its retries, is done in the second one."""
    one, two = make_pipeline(broker, failures=2)
    pipeline(broker, one, two).run()
    work_off(broker)
    assert task_of(two).status == "failed"
    pipeline(broker, one, two).run()
    work_off(broker)

    assert task_of(one).status == task_of(two).status == "done"
    assert announced_statuses(signals, two)[-1] == "done"


def test_a_pipeline_object_that_runs_twice(broker):
    """The same messages, and not fresh ones."""
    one, two = make_pipeline(broker, failures=2)
    twice = dramatiq.pipeline([one, two], broker=broker)
    for _ in range(2):
        twice.run()
        work_off(broker)

    assert task_of(one).status == task_of(two).status == "done"


def test_the_head_of_a_pipeline_that_is_sent_again(broker, signals):
    """It has an id of its own, and what follows it keeps its id."""
    one, two = make_pipeline(broker, failures=2)
    pipeline(broker, one, two).run()
    work_off(broker)
    assert task_of(two).status == "failed"
    again = resend(task_of(one))
    work_off(broker)

    assert again.message_id != one.message_id
    assert task_of(again).status == task_of(two).status == "done"
    assert announced_statuses(signals, two)[-1] == "done"


def test_the_head_of_a_pipeline_that_is_delivered_again(broker, signals):
    """After a crash before its ack: what follows it is enqueued twice."""
    one, two = make_pipeline(broker, failures=2)
    pipeline(broker, one, two).run()
    (delivered,) = broker.queues["default"].queue
    work_off(broker)
    assert task_of(two).status == "failed"
    broker.queues["default"].put(delivered)
    work_off(broker)

    assert task_of(one).status == task_of(two).status == "done"
    assert announced_statuses(signals, two)[-1] == "done"


@pytest.mark.parametrize("delay", [None, 0], ids=["direct", "delayed"])
def test_a_message_that_is_replayed(broker, delay, signals):
    """For example from a log of messages, with its id and no options."""
    flaky = declare(broker, "flaky", failures=2)
    message = flaky.message(for_state=STATE)
    for status in ("failed", "done"):
        broker.enqueue(dramatiq.Message(**{**message.asdict(), "options": {}}), delay=delay)
        work_off(broker)
        assert task_of(message).status == status

    assert announced_statuses(signals, message)[-1] == "done"


@pytest.mark.parametrize("failures", [0, 1, 2])
@pytest.mark.parametrize("delay", [None, 0], ids=["direct", "delayed"])
def test_every_outcome(broker, failures, delay, caplog):
    """Whether the stamp arrives or not; where it doesn't, that is logged once."""
    flaky = declare(broker, "flaky", failures)
    messages = [
        flaky.send_with_options(kwargs={"for_state": STATE}, delay=delay),
        declare(broker, "other").send(for_state=STATE),
    ]
    work_off(broker)

    assert task_of(messages[0]).status == ("failed" if failures > 1 else "done")
    assert task_of(messages[1]).status == "done"
    lost = [r for r in caplog.records if "without the option" in r.getMessage()]
    assert len(lost) == isinstance(broker, EarlyEncodingBroker)


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_a_broker_that_acknowledges_before_it_calls_a_hook(failures, sqlite):
    """It calls ``after_ack`` and ``after_nack`` alone."""
    broker = make_broker(broker_class=AfterOnlyBroker)
    message = declare(broker, "flaky", failures).send(for_state=STATE)
    work_off(broker)

    assert task_of(message).status == ("failed" if failures > 1 else "done")


@pytest.mark.parametrize("position", ["first", "last"])
@pytest.mark.parametrize("failures", [0, 1, 2])
def test_a_broker_that_runs_a_message_where_it_is_sent(failures, position, sqlite):
    """It runs a retry inside of the run that it follows."""
    broker = make_broker(broker_class=EagerBroker, position=position)
    message = declare(broker, "flaky", failures).send(for_state=STATE)
    assert taskstate.flush(LIMIT_SECONDS)

    assert task_of(message).status == ("failed" if failures > 1 else "done")


def test_a_broker_that_raises_the_exception_in_the_sender(sqlite):
    """It reports an end only by ``after_ack``."""
    broker = make_broker(broker_class=EagerBroker)
    broker.fail_fast = True
    flaky = declare(broker, "flaky", failures=1)
    message = flaky.message(for_state=STATE)
    with pytest.raises(Boom):
        broker.enqueue(message)
    assert taskstate.flush(LIMIT_SECONDS)
    assert (task_of(message).status, task_of(message).error) == ("failed", "Boom")

    broker.enqueue(message)
    assert taskstate.flush(LIMIT_SECONDS)
    assert (task_of(message).status, task_of(message).error) == ("done", None)


@pytest.mark.parametrize("hook", ["before_enqueue", "after_enqueue"])
@pytest.mark.parametrize("position", POSITIONS)
def test_a_message_that_is_sent_while_another_one_is_enqueued(hook, position, sqlite):
    """By another middleware, which audits what is sent."""

    class Audit(Middleware):
        def audit(self, broker, message, delay):
            if message.actor_name == "act":
                broker.actors["audit"].send(for_state=STATE)

    setattr(Audit, hook, Audit.audit)
    broker = make_broker(Audit(), position=position)
    declare(broker, "audit")
    message = declare(broker, "act").send(for_state=STATE)
    work_off(broker)

    assert task_of(message).status == "done"
    assert Task.objects.get(actor_name="audit").status == "done"


@pytest.mark.parametrize("way", ["declared", "by position", "as an option", "by keyword"])
def test_a_worker_that_does_not_know_the_actor(way, sqlite):
    """However its messages are tracked, they fail with an error that states it."""
    sender, worker = make_broker(), make_broker()
    options = {"for_state": STATE} if way == "declared" else {}
    act = declare(sender, "act", **options)
    if way == "by position":
        act = dramatiq.actor(lambda number, for_state: None, broker=sender, actor_name="second")
        message = act.send(1, STATE)
    elif way == "as an option":
        message = act.send_with_options(for_state=STATE)
    else:
        message = act.send(**({} if way == "declared" else {"for_state": STATE}))
    worker.declare_queue("default")
    worker.queues["default"].put(sender.queues["default"].get())
    work_off(worker)

    task = task_of(message)
    assert (task.status, task.description, task.user_id) == ("failed", "Export 7", 1)
    assert task.error.startswith("ActorNotFound: this worker does not know actor")


def test_a_message_that_another_middleware_makes_tracked(sqlite):
    """After our hook was called: its wait comes before its run, which may have begun."""

    class TrackAll(Middleware):
        def before_enqueue(self, broker, message, delay):
            message.options.setdefault("for_state", STATE)

    class Begin(Middleware):
        def after_enqueue(self, broker, message, delay):
            work_off(broker)

    broker = make_broker(TrackAll(), Begin(), position="first")
    message = declare(broker, "act").send()
    assert taskstate.flush(LIMIT_SECONDS)

    assert task_of(message).status == "done"


def test_a_broker_that_runs_a_message_inside_of_a_run(sqlite):
    """The outer run goes on where it was."""
    broker = make_broker(broker_class=EagerBroker)
    inner = declare(broker, "inner")

    @dramatiq.actor(broker=broker, actor_name="outer")
    def outer(for_state=None):
        inner.send(for_state=STATE)
        taskstate.set_progress(50)
        taskstate.set_result({"rows": 7})

    message = outer.send(for_state=STATE)
    assert taskstate.flush(LIMIT_SECONDS)

    assert (task_of(message).progress, task_of(message).result) == (50, {"rows": 7})


def test_an_unknown_actor_where_only_the_later_hooks_are_called(sqlite):
    """No run is known then; the message was rejected all the same."""
    broker = make_broker(broker_class=AfterOnlyBroker)
    message = declare(broker, "act").send(for_state=STATE)
    del broker.actors["act"]
    work_off(broker)

    assert task_of(message).status == "failed"


def test_a_message_that_is_acknowledged_inside_of_a_run_without_running(sqlite):
    """The outer run still is the current one."""
    broker = make_broker()
    state = next(m for m in broker.middleware if isinstance(m, StateMiddleware))
    inner = declare(broker, "inner")

    @dramatiq.actor(broker=broker, actor_name="outer")
    def outer(for_state=None):
        proxy = MessageProxy(inner.message(for_state=STATE))
        state.before_process_message(broker, proxy)
        state.before_ack(broker, proxy)
        taskstate.set_progress(50)

    message = outer.send(for_state=STATE)
    work_off(broker)

    assert (task_of(message).status, task_of(message).progress) == ("done", 50)
