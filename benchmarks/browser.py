"""A real browser, driven by selenium: Debian's chromium, without a window."""

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
    # It asks nothing of the network but the site.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--lang=en",
)


def find():
    """Return the paths of the browser and of its driver.

    Raises:
      BenchmarkError: If one of them is missing; the text says what to do.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which(DRIVER)
    if browser and driver:
        return browser, driver
    missing = " and ".join(
        name for name, path in (("chromium", browser), (DRIVER, driver)) if not path
    )
    raise BenchmarkError(
        f"This needs a browser, and {missing} can't be found on the PATH. On Debian: "
        "apt-get install chromium chromium-driver"
    )


@contextlib.contextmanager
def start(*arguments):
    """Start a browser with an empty profile; yield its driver, and end it with the block.

    Parameters:
      arguments(str): More of its command line.

    Raises:
      BenchmarkError: If there is none.
    """
    from selenium import webdriver

    browser, driver = find()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    profile = tempfile.mkdtemp(prefix="taskstate-browser-")
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}", *arguments):
        options.add_argument(argument)
    if os.geteuid() == 0:  # Its sandbox refuses root.
        options.add_argument("--no-sandbox")
    try:
        service = webdriver.ChromeService(executable_path=driver)
        started = webdriver.Chrome(options=options, service=service)
        try:
            yield started
        finally:
            started.quit()
    finally:
        # A process of the browser's may still be writing.
        shutil.rmtree(profile, ignore_errors=True)
