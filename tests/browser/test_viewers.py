"""A page that stays open while the browser signs in as another user, or signs out."""

import pytest

from tests.browser.actions import (
    DENIED,
    OTHER_USER,
    be_online,
    come_back,
    see_problem,
    sign_in,
    sign_out,
)

#: What the browser itself writes to the console when an answer is a 401.
REJECTED = "status of 401"


def holds(page, text):
    """Return whether a text is anywhere in the page, seen or not."""
    return text in page.driver.execute_script("return document.documentElement.outerHTML")


def test_the_list_starts_over_for_another_user(page, site, send):
    """What it shows of the first one is removed, and only tasks of the new one appear."""
    hers = send("alice", "Hers")
    his = send("bob", "His")
    his.order("end")
    page.visit(site, "alice")
    hers.order("progress", 50, 100, "Her note")
    page.see({"title": "Hers", "status": "Running", "note": "Her note"})

    sign_in(page, "bob")
    be_online(page)
    page.see({"title": "His", "status": "Done"})
    assert not holds(page, "Hers")
    assert not holds(page, "Her note")
    assert not holds(page, hers.id)
    hers.order("end")
    send("bob", "His too")
    page.see({"title": "His too"}, {"title": "His"})

    assert page.problem() == ""
    assert page.is_the_same()


def test_a_page_of_older_tasks_shows_that_the_user_has_changed(page, wsgi, send):
    """It has no list that could start over."""
    page.visit(wsgi, "alice")
    send("alice", "Hers")
    page.see({"title": "Hers", "status": "Running"})
    page.driver.execute_script("delete document.querySelector('task-list').dataset.cursor")

    sign_in(page, "bob")
    page.see()
    see_problem(page, OTHER_USER)
    assert not holds(page, "Hers")
    assert page.is_the_same()


@pytest.mark.parametrize(("user", "may_see"), [("bob", False), ("admin", True)])
def test_a_task_on_a_page_is_shown_if_the_new_user_may_see_it(page, site, send, user, may_see):
    """Otherwise it shows what to do."""
    hers = send("alice", "Hers")
    page.visit(site, "alice", "/")
    page.see({"title": "Hers", "status": "Running"})
    hers.order("progress", 50, 100, "Her note")
    page.see({"note": "Her note"})

    sign_in(page, user)
    be_online(page)
    if may_see:
        # Its stream of events was Alice's: only an answer for the new user sets the mark.
        page.wait_until(lambda: is_for_another(page), lambda: "the mark is Alice's")
        page.see({"title": "Hers", "status": "Running", "note": "Her note", "bar": True})
        see_problem(page, "")
    else:
        page.see({"title": "", "status": "", "note": "", "bar": False})
        see_problem(page, OTHER_USER)
        assert not holds(page, "Hers")
        assert not holds(page, "Her note")
    assert page.is_the_same()


def is_for_another(page):
    script = "return fetch('/tasks/json/').then(answer => answer.json())"
    mark = page.driver.execute_script(script)["viewer"]
    return mark == page.driver.execute_script(
        "return document.querySelector('task-progress').dataset.viewer"
    )


def test_the_page_stays_after_a_sign_out(page, site, send):
    """As it was; it goes on when the user has signed in again."""
    hers = send("alice", "Hers")
    page.visit(site, "alice")
    page.see({"title": "Hers", "status": "Running"})

    sign_out(page)
    be_online(page)
    see_problem(page, DENIED)
    page.see({"title": "Hers", "status": "Running"})
    hers.order("progress", 50)
    sign_in(page, "alice")
    come_back(page)
    page.see({"title": "Hers", "status": "Running", "percent": "50 %"})
    see_problem(page, "")

    assert page.is_the_same()
    assert page.console(but=REJECTED) == []


def test_another_user_signs_in_after_the_first_has_signed_out(page, site, send):
    send("alice", "Hers")
    send("bob", "His")
    page.visit(site, "alice")
    page.see({"title": "Hers", "status": "Running"})

    sign_out(page)
    be_online(page)
    see_problem(page, DENIED)
    sign_in(page, "bob")
    come_back(page)
    page.see({"title": "His", "status": "Running"})
    see_problem(page, "")

    assert not holds(page, "Hers")
    assert page.console(but=REJECTED) == []


@pytest.mark.parametrize("ending", ["end", "wait"])
def test_the_way_back_to_a_page_of_another_user(page, wsgi, send, ending):
    """The browser kept it; even what was finished may be of another user."""
    hers = send("alice", "Hers")
    page.visit(wsgi, "alice", "/")
    if ending == "end":
        hers.order("end")
        page.see({"title": "Hers", "status": "Done"})
    page.driver.get(f"{wsgi.url}/as/bob/?next=/tasks/")
    page.see()

    page.driver.back()
    see_problem(page, OTHER_USER)
    assert not holds(page, "Hers")
    assert page.is_the_same(), "the browser did not keep it"


def test_a_page_without_a_mark_takes_that_of_the_first_answer(page, wsgi, send):
    """A site may have a template of its own for it."""
    send("alice", "Hers")
    send("bob", "His")
    page.visit(wsgi, "alice")
    page.driver.execute_script("delete document.querySelector('task-list').dataset.viewer")
    page.see({"title": "Hers", "status": "Running"})
    export = send("alice", "Hers too")
    page.see({"title": "Hers too"}, {"title": "Hers"})

    sign_in(page, "bob")
    page.see({"title": "His"})
    assert not holds(page, export.id)
