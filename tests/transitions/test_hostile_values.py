"""Values and exceptions whose own methods raise what would end a thread: tracking survives it, as
Dramatiq does."""

import threading

import dramatiq
import pytest
from dramatiq.middleware import Interrupt, Shutdown, TimeLimitExceeded

import taskstate
from taskstate.transitions import sanitize
from tests.support.harness import Workers, make_broker, task_of


class Own(BaseException):
    """An exception of another library, such as trio or gevent."""


ENDS = [SystemExit, KeyboardInterrupt, GeneratorExit, Own]


def hostile(raised, *methods, base=Exception):
    """Return a class whose methods raise ``raised``."""

    def method(self, *args):
        raise raised

    return type("Hostile", (base,), dict.fromkeys(methods, method))


def in_thread(function, *args):
    """Return what a function returns in a thread of its own, or raises there."""
    outcome = []

    def run():
        try:
            outcome.append(function(*args))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return outcome[0]


@pytest.mark.parametrize("raised", ENDS)
def test_a_worker_outlives_an_exception_that_can_not_be_described(raised, sqlite):
    """Its task has failed; the same thread runs the next message."""
    broker = make_broker()
    error = hostile(raised, "__str__", "__repr__")
    threads = []

    @dramatiq.actor(broker=broker, max_retries=1)
    def fail(for_state=None):
        threads.append(threading.current_thread())
        raise error

    @dramatiq.actor(broker=broker)
    def succeed(for_state=None):
        threads.append(threading.current_thread())

    with Workers(broker, threads=1) as workers:
        failed = fail.send(for_state={})
        done = succeed.send(for_state={})
        workers.finish()

    assert len(set(threads)) == 1
    assert task_of(done).status == "done"
    assert task_of(failed).status == "failed"
    assert task_of(failed).error == "Hostile: (its message can't be read)"
    assert "Hostile" in task_of(failed).traceback


@pytest.mark.parametrize("raised", ENDS)
@pytest.mark.parametrize("attribute", ["__notes__", "__suppress_context__"])
def test_a_traceback_that_can_not_be_formatted(raised, attribute):
    """Python's own formatting does not catch what an attribute of the exception raises."""

    def attribute_of(self):
        raise raised

    error = type("Hostile", (Exception,), {attribute: property(attribute_of)})("x")

    assert isinstance(in_thread(sanitize.format_traceback, error), str)


@pytest.mark.parametrize("raised", [TimeLimitExceeded, Shutdown, Interrupt])
def test_what_dramatiq_raises_in_a_thread_goes_through(raised):
    """It may arrive anywhere: swallowed, a time limit would never end its actor."""
    error = hostile(raised, "__str__")()

    assert isinstance(in_thread(sanitize.describe_exception, error), raised)


def test_the_main_thread_can_be_interrupted():
    """What the handler of a signal raises there is not the value's own."""
    value = hostile(KeyboardInterrupt, "__str__", base=object)()

    with pytest.raises(KeyboardInterrupt):
        sanitize.clean_text(value, 5)


@pytest.mark.parametrize("raised", [*ENDS, ZeroDivisionError])
def test_a_text_of_progress_that_can_not_be_read(raised, sqlite, caplog):
    """It ends no actor: the progress is kept without it."""
    broker = make_broker()
    text = hostile(raised, "__str__", "__repr__", base=object)()

    # It is warned of once per actor.
    @dramatiq.actor(broker=broker, max_retries=0, actor_name=f"work-{raised.__name__}")
    def work(for_state=None):
        taskstate.set_progress(50, text=text)

    with Workers(broker, threads=1) as workers:
        message = work.send(for_state={})
        workers.finish()

    assert (task_of(message).status, task_of(message).progress) == ("done", 50)
    assert "a text of type Hostile that can't be converted to a str" in caplog.text


@pytest.mark.parametrize("raised", ENDS)
@pytest.mark.parametrize("key", ["description", "user_pk"])
def test_a_value_of_for_state_that_can_not_be_read(raised, key, sqlite):
    """It does not end the sender; the task is tracked without it.  JSON takes no such
    value; Pickle does."""
    value = hostile(raised, "__str__", "__int__", "__index__", base=int)(1)
    broker = make_broker()
    act = dramatiq.actor(lambda for_state: None, broker=broker, actor_name="act")

    message = in_thread(lambda: act.send(for_state={key: value}))

    assert isinstance(message, dramatiq.Message), message
    assert taskstate.flush(30)
    assert task_of(message).status == "enqueued"


def test_a_text_of_another_class_becomes_plain():
    """Whatever ``__str__`` returns: what is kept calls no methods of another class."""

    class Text(str):
        __slots__ = ()

    value = type("Value", (), {"__str__": lambda self: Text("x")})()

    assert type(sanitize.clean_text(value, 5)) is str
