"""Django's admin, with tasks in it, is usable by everyone, as far as its pages are ours."""

import datetime
import io

import matplotlib.image
import pytest
from django.utils import timezone
from selenium.webdriver.common.by import By

from taskstate.models import Status, Task
from tests.browser.accessibility import WAYS, looked_at, violations
from tests.support.factories import make_id

LIST = "/admin/taskstate/task/"

#: What is ours on a page: there, every rule counts.
OURS = "[class*=taskstate-], .delete-selected-confirmation #content"
#: Rules that Django's own parts of the pages break.
DJANGOS = {
    # Links among the breadcrumbs, and "Show all" beside the number of results, have no underline.
    "link-in-text-block",
    # The label of the field to search in is an image.
    "label-title-only",
}
#: Where colors are those of the system, axe-core compares some of Django's own with these.
FORCED = {"color-contrast"}


@pytest.fixture
def tasks(users):
    """One task of each status, with every text that a task can have."""
    now = timezone.now()
    for number, status in enumerate(Status, start=1):
        Task.objects.create(
            message_id=make_id(number),
            status=status,
            actor_name="export",
            queue_name="reports",
            user_id=users["alice"].pk,
            description=f"Report {number}",
            enqueued_at=now - datetime.timedelta(minutes=number),
            started_at=now - datetime.timedelta(seconds=30),
            updated_at=now,
            attempt=2,
            error="ValueError: no such row",
            traceback="Traceback (most recent call last):\n  ...",
            progress=40,
            progress_text="Row 4 of 10",
            result={"rows": 4},
            metadata={"order": 7},
            stored_message="{}",
            stamp=1,
            rank=1,
        )


def open_page(page, site, name):
    """Open one of the pages of the admin."""
    if name == "task":
        page.visit(site, "admin", f"{LIST}{make_id(5)}/change/")
        return
    page.visit(site, "admin", LIST)
    if name == "confirmation":
        page.driver.execute_script(
            "for (const box of document.querySelectorAll('.action-select')) box.click();"
            "document.querySelector('select[name=action]').value = 'resend';"
            "document.querySelector('button[name=index]').click()"
        )
        wait_for(page, ".cancel-link")


def wait_for(page, css):
    """Wait for an element of the page that a click leads to."""
    page.wait_until(
        lambda: page.driver.find_elements(By.CSS_SELECTOR, css), lambda: f"{css} is not shown"
    )
    return page.driver.find_element(By.CSS_SELECTOR, css)


@pytest.mark.parametrize("name", ["list", "task", "confirmation"])
@pytest.mark.parametrize("way", WAYS)
def test_axe_finds_nothing(page, wsgi, tasks, name, way):
    """In nothing of ours, and in nothing of Django's but what is known."""
    with looked_at(page.driver, **WAYS[way]):
        open_page(page, wsgi, name)

        # Before axe-core, which tries out styles on some elements.
        assert page.console() == []
        assert violations(page.driver, OURS) == []
        known = DJANGOS | (FORCED if way == "forced" else set())
        assert violations(page.driver, but=known) == []
        page.console()


@pytest.mark.parametrize("way", WAYS)
def test_a_bar_shows_how_far_a_task_is(page, wsgi, tasks, way):
    """At 40 percent its beginning and its end differ, whatever the colors are."""
    with looked_at(page.driver, **WAYS[way]):
        open_page(page, wsgi, "list")
        bar = page.driver.find_element(By.CSS_SELECTOR, "#result_list progress")
        pixels = matplotlib.image.imread(io.BytesIO(bar.screenshot_as_png), format="png")
        middle = pixels[len(pixels) // 2, :, :3]

    width = len(middle)
    assert abs(middle[width // 5] - middle[width * 4 // 5]).max() > 0.1


def test_who_does_not_confirm_is_back_in_the_list(page, wsgi, tasks):
    """And who does is given the reasons why nothing was sent."""
    open_page(page, wsgi, "confirmation")
    page.click(".cancel-link")
    wait_for(page, "#result_list")
    open_page(page, wsgi, "confirmation")
    page.click("input[type=submit]")

    message = wait_for(page, ".messagelist li").text
    assert message.startswith("6 tasks were not sent again: Report 6 (")
