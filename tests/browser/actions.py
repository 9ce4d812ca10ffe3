"""What users do in a browser, and what a page shows them."""

DENIED = "You are signed out. Sign in and load this page again."
OTHER_USER = "You have signed in as another user. Load this page again."
SIGN_IN = "fetch(arguments[0]).then(answer => answer.text()).then(arguments[1])"


def sign_in(page, user):
    """Sign a user in, as another tab would."""
    page.driver.execute_async_script(SIGN_IN, f"/as/{user}/?next=/tasks/json/")


def sign_out(page):
    page.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})


def be_online(page):
    """Have the page ask at once, whatever it waits for."""
    page.driver.execute_script("window.dispatchEvent(new Event('online'))")


def come_back(page):
    """Look at the page again after having been in another tab."""
    page.driver.execute_script("document.dispatchEvent(new Event('visibilitychange'))")


def see_problem(page, text):
    page.wait_until(lambda: page.problem() == text, lambda: f"the page shows {page.problem()!r}")
