"""The page of tasks, and a page of a site's own with tasks on it, are usable by everyone."""

import itertools

import pytest
from django.utils import timezone
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from taskstate.models import Task
from taskstate.views.page import PAGE_SIZE
from tests.browser.accessibility import WAYS, looked_at, violations
from tests.browser.actions import sign_in
from tests.support.factories import make_id
from tests.support.workers import wait_until

LANGUAGES = {"ltr": "en", "rtl": "he"}
WATCH = """
window.announced = [];
new MutationObserver(changes => {
    for (const change of changes) {
        const region = change.target.parentElement?.closest("[role=status]") || change.target;
        if (region.role === "status") announced.push(region.textContent);
    }
}).observe(document.querySelector("main"), {childList: true, characterData: true, subtree: true});
"""
EDGES = """
const edges = {};
for (const name of ["task", "title", "status", "bar", "percent"]) {
    const element = document.querySelector(`.taskstate-${name}`);
    const text = name === "task" ? null : element.querySelector("bdi");
    const box = (text || element).getBoundingClientRect();
    edges[name] = {left: Math.round(box.left), right: Math.round(box.right)};
}
return edges;
"""
FOCUSED = """
const element = document.activeElement;
return [element.textContent, getComputedStyle(element).outlineStyle !== "none"];
"""
RUNNING = {"title": "Export", "value": 50, "percent": "50 %", "note": "Reading"}


@pytest.fixture
def tasks(send):
    """Tasks of several kinds, oldest first."""
    export = send("alice", "Export")
    failing = send("alice", "Import")
    done = send("alice", "Mail")
    export.order("progress", 50, 100, "Reading")
    failing.order("fail", "The disk is full.")
    done.order("end")
    # What ended together with the test before may be written only now.
    finished = Task.objects.finished().filter(pk__in=[failing.id, done.id])
    wait_until(lambda: finished.count() == 2)
    wait_until(lambda: Task.objects.filter(pk=export.id, progress=50).exists())
    return export, failing, done


def read_in(page, site, language):
    """Have the site answer in a language."""
    cookie = {"name": "django_language", "value": language, "url": site.url}
    page.driver.execute_cdp_cmd("Network.setCookie", cookie)


def violations_in_each_way(page):
    """Return what axe-core finds in the open page, by the way to look at it."""
    found = {}
    for name, way in WAYS.items():
        with looked_at(page.driver, **way):
            found[name] = violations(page.driver)
    return {name: faults for name, faults in found.items() if faults}


def test_axe_finds_what_is_wrong(page, wsgi, users):
    """Rules that are off by default as well: two buttons too small and too near to be hit."""
    page.visit(wsgi, "alice")
    page.driver.execute_script(
        "const two = '<button>a</button><button>b</button>';"
        "document.querySelector('main').insertAdjacentHTML('beforeend', two);"
        "for (const b of document.querySelectorAll('button')) b.style = 'width: 9px; padding: 0';"
    )

    assert {rule for rule, _ in violations(page.driver)} == {"target-size"}
    assert violations(page.driver, within="task-list") == []
    assert violations(page.driver, but={"target-size"}) == []


@pytest.mark.parametrize("direction", LANGUAGES)
def test_axe_finds_nothing(page, wsgi, tasks, direction):
    """On the page of tasks, and with one task on a page of the site's own."""
    read_in(page, wsgi, LANGUAGES[direction])
    for path, expected in {"/tasks/": [{}] * 3, "/": [RUNNING]}.items():
        page.visit(wsgi, "alice", path)
        page.see(*expected)

        assert page.driver.execute_script("return document.documentElement.dir") == direction
        assert violations_in_each_way(page) == {}


def test_axe_finds_nothing_between_pages(page, wsgi, users):
    """With links to newer and to older tasks, which the keyboard reaches, and tasks in the other
    states."""
    statuses = itertools.cycle(["enqueued", "delayed", "skipped"])
    now = timezone.now()
    Task.objects.bulk_create(
        Task(
            message_id=make_id(number),
            status=next(statuses),
            actor_name=f"export_{number}",
            user=users["alice"],
            enqueued_at=now,
            updated_at=now,
            stamp=1,
            rank=1,
        )
        for number in range(PAGE_SIZE * 2 + 1)
    )
    page.visit(wsgi, "alice", "/tasks/?page=2")
    page.see(*[{}] * PAGE_SIZE)

    assert len(page.driver.find_elements(By.CSS_SELECTOR, "nav a")) == 2
    assert violations_in_each_way(page) == {}

    focused = []
    for _ in range(2):
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
        focused.append(page.driver.execute_script(FOCUSED))
    assert focused == [["Newer tasks", True], ["Older tasks", True]]


def test_axe_finds_nothing_after_the_user_has_changed(page, wsgi, send):
    """Neither in an element that shows that nor in an empty list."""
    send("alice", "Export")
    page.visit(wsgi, "alice", "/")
    page.see({"status": "Running"})
    sign_in(page, "bob")
    page.see({"status": "", "bar": False})
    assert page.problem() != ""
    assert violations_in_each_way(page) == {}

    page.visit(wsgi, "bob")
    page.see()
    assert violations_in_each_way(page) == {}


def test_what_a_screen_reader_is_given(page, wsgi, tasks):
    """A list of three, a bar per task with the task's name, and no bar for one that has failed."""
    page.visit(wsgi, "alice")
    page.see(*[{}] * 3)
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    found = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"]
    ]

    assert [name for role, name in found if role == "heading"] == ["Your tasks"]
    assert [role for role, _ in found].count("list") == 1
    assert [role for role, _ in found].count("listitem") == 3
    # That of what is done is only hidden on this page.
    assert [name for role, name in found if role == "progressbar"] == ["Export"]
    (bar,) = [node for node in nodes if node["role"].get("value") == "progressbar"]
    assert bar["value"]["value"] == 50
    texts = [name for role, name in found if role == "StaticText"]
    assert {"Export", "Running", "Reading", "Import", "Failed", "Mail", "Done"} <= set(texts)
    assert [role for role, _ in found].count("status") == 4, "one of the page, and one per task"


def test_a_change_is_announced_once(page, wsgi, send):
    """The title with the new status; what only changes its progress is not announced."""
    page.visit(wsgi, "alice")
    export = send("alice", "Export")
    page.see({"status": "Running"})
    page.driver.execute_script(WATCH)
    export.order("progress", 50, 100, "Reading")
    page.see({"percent": "50 %"})
    export.order("end")
    page.see({"status": "Done"})

    assert page.driver.execute_script("return window.announced") == ["Export: Done"]


def test_the_bar_is_seen_in_forced_colors(page, wsgi, tasks):
    """Its value and its border are in the system's colors, which are not those around it."""
    with looked_at(page.driver, forced_colors=True):
        page.visit(wsgi, "alice", "/")
        page.see(RUNNING)
        bar = page.driver.find_element(By.CSS_SELECTOR, "progress")
        style = "return getComputedStyle(arguments[0])[arguments[1]]"
        seen = {
            name: page.driver.execute_script(style, bar, name)
            for name in ("color", "backgroundColor", "borderTopColor", "borderTopWidth")
        }

    assert seen["borderTopWidth"] == "1px"
    assert len({seen["color"], seen["backgroundColor"]}) == 2
    assert len({seen["borderTopColor"], seen["backgroundColor"]}) == 2


def test_the_bar_grows_from_the_side_where_texts_begin(page, wsgi, tasks):
    read_in(page, wsgi, "he")
    page.visit(wsgi, "alice", "/")
    page.see(RUNNING)
    edges = page.driver.execute_script(EDGES)

    assert edges["title"]["right"] == edges["task"]["right"]
    assert edges["status"]["left"] == edges["task"]["left"]
    assert edges["bar"]["right"] == edges["task"]["right"]
    assert edges["percent"]["left"] == edges["task"]["left"]
