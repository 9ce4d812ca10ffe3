"""Tasks that are missing from the answers, by a clock that the test moves."""

import itertools

import pytest

from tests.support.factories import make_id

HOUR = 3600


def gaps(asked):
    times = [time for time, _ in asked]
    return [later - earlier for earlier, later in zip(times, times[1:])]


def test_a_missing_task_is_requested_less_and_less_often(script):
    """Though it is all that the page waits for; at last every five minutes."""
    script.show(1)
    script.let_pass(HOUR)
    found = script.asked()

    assert all(ids == [make_id(1)] for _, ids in found)
    assert len([time for time, _ in found if time <= 60]) >= 8
    assert len(found) < 30
    assert gaps(found)[-1] == 300
    assert sorted(gaps(found)) == gaps(found)


def test_a_task_that_appears_late_is_shown(script):
    script.show(1)
    script.let_pass(HOUR)
    script.asked()
    script.answer(1)
    script.let_pass(300)

    assert script.statuses() == ["running"]
    script.let_pass(60)
    # From then on it is followed as others are.
    assert len(script.asked()) > 5


def test_other_tasks_are_requested_as_before(script):
    """A missing task is asked for together with them, when it is due."""
    script.answer(2)
    script.show(1)
    script.show(2)
    script.let_pass(HOUR)
    found = script.asked()

    assert max(gaps(found)) <= 15
    with_missing = [time for time, ids in found if make_id(1) in ids]
    assert len(with_missing) < 30
    assert all(make_id(2) in ids for _, ids in found)


def test_a_missing_task_is_requested_when_the_user_comes_back(script):
    script.show(1)
    script.let_pass(HOUR)
    script.asked()
    script.driver.execute_script("document.dispatchEvent(new Event('visibilitychange'))")
    script.let_pass(0)

    assert [ids for _, ids in script.asked()] == [[make_id(1)]]


def test_no_stream_is_kept_open_for_a_missing_task(script):
    """One stays open for others, without it."""
    script.show(1, eventsUrl="/tasks/events/")
    script.let_pass(HOUR)
    ((opened, closed, ids),) = script.streams()
    assert (opened, closed, ids) == (0, 60, [make_id(1)])
    assert len(script.asked()) < 20

    script.answer(2)
    script.show(2)
    script.let_pass(HOUR)
    assert {tuple(ids) for _, _, ids in script.streams()[1:]} == {(make_id(2),)}
    opened_and_closed = list(itertools.chain(*((o, c) for o, c, _ in script.streams()[1:])))
    assert opened_and_closed.pop() is None, "the last one is open"
    assert gaps([(time, ()) for time in opened_and_closed][::2])[-1] == 300


@pytest.mark.parametrize("status", ["running", "done"])
def test_a_task_of_a_former_user_is_requested_once(script, status):
    """The new one may see it, or may not."""
    at_first = [make_id(1), make_id(2)] if status == "running" else [make_id(2)]
    script.answer_for("b")
    script.show(1, viewer="a", status=status)
    # Without a task that is not finished, nothing would be asked.
    script.show(2, viewer="a")
    script.let_pass(0)
    assert script.statuses() == ["", ""]
    script.let_pass(HOUR)

    assert script.asked() == [[0, at_first], [1, [make_id(1), make_id(2)]]]


def test_a_server_with_different_secret_keys_is_not_asked_without_pause(script):
    """Some of its processes may have another SECRET_KEY."""
    script.answer_for("a", "b")
    script.show(1, viewer="a")
    script.let_pass(60)

    assert 10 < len(script.asked()) <= 61


def test_a_hint_is_given_once(script, page):
    """In the console, where a developer looks."""
    script.answer(hints={make_id(1): "There is no row."})
    script.show(1)
    script.let_pass(HOUR)

    (line,) = page.console()
    assert f'"taskstate: task {make_id(1)}: There is no row. See docs/troubleshooting.md#' in line
