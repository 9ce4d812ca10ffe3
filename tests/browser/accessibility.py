"""Whether a page can be used by everyone: what axe-core finds in it, in each way to look at it."""

import contextlib
import importlib.util
import sys
from pathlib import Path

import pytest

from tests.support import servers

#: The package that brings axe-core along, and where in it.
PACKAGE = "selenium_axe_python"
SCRIPT = "axe-core/axe.min.js"
#: WCAG 2.2 up to AA, and what axe-core itself recommends.
TAGS = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
#: Rules that are off by default.
RULES = ("target-size",)
WIDE = 1280
#: The narrowest screen that WCAG asks for.
NARROW = 320
#: The ways to look at a page: arguments of ``looked_at``.
WAYS = {
    "light": {},
    "dark": {"scheme": "dark"},
    "narrow": {"width": NARROW},
    "forced": {"forced_colors": True},
}
RUN = """
const [within, tags, rules, done] = arguments;
const options = {
    runOnly: { type: "tag", values: tags },
    rules: Object.fromEntries(rules.map(rule => [rule, { enabled: true }])),
    resultTypes: ["violations"],
};
axe.run(within || document, options).then(
    found => done(found.violations.flatMap(violation => violation.nodes.map(
        node => [violation.id, `${violation.help}: ${node.html}\\n${node.failureSummary}`]
    ))),
    error => done([["axe", String(error)]]),
);
"""


def violations(driver, within=None, but=()):
    """Return what axe-core objects to in the page that is open: pairs of a rule and its complaint.

    Parameters:
      within(str): A CSS selector: look at what is inside of it alone.
      but(set): Rules, by their ids, that don't count here.
    """
    driver.execute_script(_source())
    found = driver.execute_async_script(RUN, within, TAGS, RULES)
    return [(rule, text) for rule, text in found if rule not in but]


def _source():
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        if servers.required() and sys.version_info >= (3, 9):
            pytest.fail("TASKSTATE_TEST_SERVERS=required. Install selenium-axe-python.")
        pytest.skip("selenium-axe-python, which brings axe-core, is not installed")
    return (Path(spec.origin).parent / SCRIPT).read_text(encoding="utf-8")


@contextlib.contextmanager
def looked_at(driver, *, scheme="light", forced_colors=False, width=WIDE):
    """Look at pages in a color scheme, with the colors of the system, or on a screen of a width."""
    features = {
        "prefers-color-scheme": scheme,
        "prefers-reduced-motion": "reduce",
        "forced-colors": "active" if forced_colors else "none",
    }
    media = [{"name": name, "value": value} for name, value in features.items()]
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        yield
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
