"""What a user sees and does in a real browser."""

import contextlib
import threading
import time

import pytest
from selenium.webdriver.common.by import By

from benchmarks.demo import browser
from benchmarks.errors import BenchmarkError
from tests.support import servers
from tests.support.limits import LIMIT_SECONDS

LOOK = """
return Array.from(document.querySelectorAll("task-progress"), element => {
    const text = name => element.querySelector(`[data-field=${name}]`).textContent.trim();
    const bar = element.querySelector("progress");
    return {
        id: element.dataset.task,
        title: text("title"),
        status: text("status_label"),
        percent: text("percent"),
        note: text("note"),
        value: bar.hasAttribute("value") ? bar.value : null,
        bar: !bar.hidden,
    };
})
"""
PROBLEM = """
return Array.from(document.querySelectorAll("[data-problem]"), e => e.textContent).join("")
"""
#: What the browser itself writes to the console when a connection is refused or cut.
NO_CONNECTION = "net::ERR_"


def need_browser():
    """Skip the test if there is no browser, or fail where all servers have to be there."""
    try:
        browser.find()
    except BenchmarkError as error:
        if servers.required():
            pytest.fail(f"TASKSTATE_TEST_SERVERS=required. {error}")
        pytest.skip(str(error))


class Page:
    """A browser, and what it shows of tasks.

    Parameters:
      driver(webdriver.Chrome): The browser.
    """

    def __init__(self, driver):
        self.driver = driver
        self.site = None

    def visit(self, site, user, path="/tasks/"):
        """Sign a user in at a site, and open a page; from now on it is not to be loaded again."""
        self.site = site
        self.driver.get(f"{site.url}/as/{user}/?next={path}")
        assert self.driver.current_url == f"{site.url}{path}"
        self.mark()

    def mark(self):
        """Leave a mark that ends with the page."""
        self.driver.execute_script("window.taskstateTest = true")

    def is_the_same(self):
        """Return whether the page was not loaded again since it was marked."""
        return self.driver.execute_script("return window.taskstateTest === true")

    def tasks(self):
        """Return what is shown of each task, from top to bottom."""
        return self.driver.execute_script(LOOK)

    def problem(self):
        """Return what the page shows about the connection."""
        return self.driver.execute_script(PROBLEM)

    def click(self, css):
        self.driver.find_element(By.CSS_SELECTOR, css).click()

    def see(self, *expected):
        """Wait until the page shows these tasks: some of what ``tasks`` returns of each."""

        def is_shown():
            shown = self.tasks()
            return len(shown) == len(expected) and all(
                wanted.items() <= found.items() for wanted, found in zip(expected, shown)
            )

        self.wait_until(is_shown, lambda: f"expected {expected}, and the page shows {self.tasks()}")

    def wait_until(self, condition, complaint):
        """Look at the page until it is so: only a failure ever takes ``LIMIT_SECONDS``."""
        deadline = time.monotonic() + LIMIT_SECONDS
        pause = threading.Event()
        while not condition():
            assert time.monotonic() < deadline, complaint()
            pause.wait(0.05)

    def requests(self, path):
        """Return the addresses of all requests that the page has made below a path."""
        script = "return performance.getEntriesByType('resource').map(entry => entry.name)"
        return [name for name in self.driver.execute_script(script) if path in name]

    def console(self, *, but=None):
        """Return what the browser's console holds since the last look: errors of scripts, and of
        what the site's policy forbids."""
        lines = [entry["message"] for entry in self.driver.get_log("browser")]
        return [line for line in lines if but is None or but not in line]

    @contextlib.contextmanager
    def without_javascript(self):
        self._disable_javascript(value=True)
        try:
            yield
        finally:
            self._disable_javascript(value=False)

    def _disable_javascript(self, *, value):
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": value})

    def leave(self):
        """Forget who was signed in, and what was open."""
        self.driver.get("about:blank")
        self.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
        self.console()
