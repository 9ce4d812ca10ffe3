"""How the script of the pages asks and listens, by a clock that the test moves."""

import pytest

from tests.browser.actions import OTHER_USER, be_online, come_back, see_problem, sign_in
from tests.support.factories import make_id

EVENTS = {"eventsUrl": "/tasks/events/"}


def test_a_stream_that_is_left_before_its_first_event_ends_no_other(script):
    """What limits the time for its first event ends together with it."""
    script.answer(1, 2)
    script.driver.execute_script("server.isSilent = true")
    script.show(1, **EVENTS)
    script.let_pass(5)
    script.driver.execute_script("server.isSilent = false")
    script.show(2, **EVENTS)
    script.let_pass(120)

    assert [closed for _, closed, _ in script.streams()] == [5, None]
    assert len(script.asked()) == 2


@pytest.mark.parametrize("left", ["hidden", "kept"])
@pytest.mark.parametrize("late", [{"viewers": ["a"]}, {"answer": {"ok": False, "status": 401}}])
def test_an_answer_from_before_the_page_was_left_does_not_count(script, late, left):
    """It may be for the former user, or for no one: the next request finds out who it is."""
    script.answer(1)
    script.driver.execute_script(
        "Object.assign(server, { isSlow: true, ...arguments[0] });"
        "Object.assign(server.tasks[0], { status: 'done', is_finished: true })",
        late,
    )
    script.show(1, viewer="a")
    script.let_pass(1)
    script.driver.execute_script(
        "Object.assign(server, { isSlow: false, answer: {}, tasks: [], viewers: ['b'] });"
        "const shown = new PageTransitionEvent('pageshow', { persisted: true });"
        "if (arguments[0] === 'kept') window.dispatchEvent(shown);"
        "else document.dispatchEvent(new Event('visibilitychange'));"
        "for (const arrive of server.late) arrive()",
        left,
    )
    script.let_pass(10)

    assert script.statuses() == [""]


def test_what_is_finished_is_removed_when_another_user_comes_back(script):
    """An answer about one task shows that the user is another; of the same one, it is all."""
    script.show(1, viewer="a", status="done")
    script.show(2, viewer="a", status="failed")
    script.let_pass(60)
    assert script.asked() == []
    come_back(script)
    script.let_pass(60)
    assert script.asked() == [[60, [make_id(1)]]]
    assert script.statuses() == ["done", "failed"]

    script.answer_for("b")
    come_back(script)
    script.let_pass(60)
    assert script.asked() == [[120, [make_id(1)]], [121, [make_id(1), make_id(2)]]]
    assert script.statuses() == ["", ""]


def test_elements_that_come_and_go_cause_no_flood(script):
    """A framework may move them many times in a second."""
    script.answer(1)
    script.show(1, **EVENTS)
    script.let_pass(5)
    script.asked()
    opened = len(script.streams())
    for _ in range(50):
        script.driver.execute_script("document.body.append(document.body.lastElementChild)")
        script.let_pass(0.1)
    script.let_pass(1)

    assert len(script.asked()) <= 7
    assert len(script.streams()) - opened <= 7
    assert script.streams()[-1][1] is None, "the last one is open"


def test_a_rejected_stream_is_tried_again_when_the_page_is_shown_again(script):
    """Until then the page polls: the server may have too many streams for now."""
    script.answer(1)
    script.driver.execute_script("server.isFull = true")
    script.show(1, **EVENTS)
    script.let_pass(60)
    assert len(script.streams()) == 1
    assert len(script.asked()) > 5

    script.driver.execute_script("server.isFull = false")
    come_back(script)
    script.let_pass(5)
    assert [closed for _, closed, _ in script.streams()][1:] == [None]


@pytest.mark.parametrize("answer", [{"ok": False, "status": 404}, {"ok": True, "redirected": True}])
def test_a_server_that_returns_no_tasks_is_reported_once(script, page, answer):
    """In the console, where a developer looks; a server that restarts is not."""
    script.driver.execute_script(
        "server.answer = { ...arguments[0], json: async () => JSON.parse('<html>') }", answer
    )
    script.show(1)
    script.let_pass(2)
    assert len(script.asked()) == 2
    assert page.console() == []

    script.let_pass(600)
    (line,) = page.console()
    status = answer.get("status", 200)
    assert f'"taskstate: /tasks/json/ returns no tasks (HTTP {status}). See docs/' in line


ANNOUNCED = """
return Array.from(document.querySelectorAll("[data-announcer]"), e => e.textContent).filter(t => t)
"""
COUNT = """
window.finished = 0;
document.addEventListener("task-finished", () => finished += 1);
"""
ROLES = """
return Array.from(document.querySelectorAll("[data-problem]"), e => [e.role, e.textContent !== ""])
"""


def test_a_list_that_starts_over_announces_no_changes(page, wsgi, send):
    """What the new user has was there before: no task has just changed or finished."""
    done = send("bob", "His")
    done.order("end")
    page.visit(wsgi, "bob")
    page.see({"status": "Done"})
    page.visit(wsgi, "alice")
    page.driver.execute_script(COUNT)
    sign_in(page, "bob")
    be_online(page)
    page.see({"title": "His", "status": "Done"})
    assert page.driver.execute_script(ANNOUNCED) == []
    assert page.driver.execute_script("return finished") == 0

    his = send("bob", "His too")
    page.see({"title": "His too", "status": "Running"}, {})
    his.order("end")
    page.see({"title": "His too", "status": "Done"}, {})
    assert page.driver.execute_script(ANNOUNCED) == ["His too: Done"]
    assert page.driver.execute_script("return finished") == 1


def test_a_user_who_has_changed_is_read_aloud_beside_a_list(page, wsgi, send):
    """Although the list, which comes first, has started over and announces nothing."""
    hers = send("alice", "Hers")
    page.visit(wsgi, "alice")
    page.see({"title": "Hers", "status": "Running"})
    page.driver.execute_async_script(
        "const [id, done] = arguments;"
        "fetch('/').then(answer => answer.text()).then(text => {"
        "    const other = new DOMParser().parseFromString(text, 'text/html');"
        "    const element = other.querySelector(`task-progress[data-task='${id}']`);"
        "    document.querySelector('main').append(document.adoptNode(element));"
        "    done();"
        "})",
        hers.id,
    )
    sign_in(page, "bob")
    be_online(page)
    see_problem(page, OTHER_USER)

    assert page.driver.execute_script(ROLES) == [["status", False], ["status", True]]
    pill = page.driver.find_element("css selector", ".taskstate-status")
    assert not pill.is_displayed(), "an empty frame is left of the status"
