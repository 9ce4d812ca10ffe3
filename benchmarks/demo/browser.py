"""Starts Debian's chromium without a window, controlled by selenium."""

import contextlib
import os
import shutil
import tempfile

from benchmarks.errors import BenchmarkError

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRIVER = "chromedriver"
ARGUMENTS = (
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    # No requests except to the site.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--lang=en",
)


def find():
    """Return the paths of the browser and of its driver.

    Raises:
      BenchmarkError: If one of them is missing.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which(DRIVER)
    if browser and driver:
        return browser, driver
    missing = " and ".join(
        name for name, path in (("chromium", browser), (DRIVER, driver)) if not path
    )
    raise BenchmarkError(
        f"{missing} can't be found on the PATH. Install the browser and its driver, on Debian with "
        "apt-get install chromium chromium-driver"
    )


@contextlib.contextmanager
def start(*arguments):
    """Run a browser with an empty profile during the block; yield its driver.

    Parameters:
      arguments(str): Additional command-line arguments of the browser.

    Raises:
      BenchmarkError: If the browser or its driver is missing.
    """
    from selenium import webdriver

    browser, driver = find()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    profile = tempfile.mkdtemp(prefix="taskstate-browser-")
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}", *arguments):
        options.add_argument(argument)
    if os.geteuid() == 0:  # Chromium's sandbox does not work as root.
        options.add_argument("--no-sandbox")
    try:
        service = webdriver.ChromeService(executable_path=driver)
        started = webdriver.Chrome(options=options, service=service)
        try:
            yield started
        finally:
            started.quit()
    finally:
        # A process of the browser may still write to it.
        shutil.rmtree(profile, ignore_errors=True)
