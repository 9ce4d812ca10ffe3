"""A browser, the site that it shows, and a worker that does what a test orders."""

import contextlib
import json
import uuid

import pytest
from django.contrib.auth import get_user_model
from dramatiq import Message

import taskstate
from benchmarks.demo import browser
from benchmarks.demo.website.users import NAMES, make_users
from taskstate.middleware import StateMiddleware
from tests.browser.page import NO_CONNECTION, Page, need_browser
from tests.browser.script import CLOCK, Script
from tests.support.limits import LIMIT_SECONDS
from tests.support.live_website import Website
from tests.support.processes import environment
from tests.support.workers import Rundramatiq, close, queue_of_its_own

#: The worker and the site outlive a test.
SCOPE = "package"


@contextlib.contextmanager
def open_page():
    need_browser()
    with browser.start() as driver:
        yield Page(driver)


@pytest.fixture(scope=SCOPE)
def one_page():
    with open_page() as page:
        yield page


@pytest.fixture(scope=SCOPE)
def another_page():
    with open_page() as page:
        yield page


def in_use(page):
    """Yield the page; see to it that its console stays empty, and leave it."""
    yield page
    complaints = page.console()
    page.leave()
    assert complaints == []


@pytest.fixture
def page(one_page, users):
    """The browser of a user, where no user is signed in."""
    yield from in_use(one_page)


@pytest.fixture
def others_page(another_page, users):
    """The same of another user, at the same time."""
    yield from in_use(another_page)


@pytest.fixture(scope=SCOPE)
def env(django_db_setup):
    """The environment of the site's and the worker's processes."""
    with queue_of_its_own("redis") as more:
        more["DJANGO_SETTINGS_MODULE"] = "tests.browser.settings"
        yield environment("default", **more)


@pytest.fixture(scope=SCOPE)
def worker(env):
    with Rundramatiq(env, "--processes", "1", "--threads", "4") as worker:
        yield worker


@pytest.fixture(scope=SCOPE)
def wsgi(env):
    with Website("wsgi", env) as site:
        yield site


@pytest.fixture(scope=SCOPE)
def asgi(env):
    with Website("asgi", env) as site:
        yield site


@pytest.fixture(params=["wsgi", "asgi"])
def site(request, users):
    """The site, served in each way."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def users(sqlite):
    """The users of the site, by their names."""
    yield make_users()
    get_user_model().objects.filter(username__in=NAMES).delete()


@pytest.fixture
def send(env, worker, users):
    """A function that sends a message on behalf of a user, whose worker then waits for orders."""
    from dramatiq.brokers.redis import RedisBroker

    broker = RedisBroker(url=env["BROKER"], middleware=[StateMiddleware()])
    queue = env["DEMO_QUEUE"]
    broker.declare_queue(queue)
    sent = []

    def send(user, description, **options):
        ordered = Ordered(broker.client, f"dramatiq:{queue}:orders:{uuid.uuid4().hex}")
        sent.append(ordered)
        state = {"user_pk": users[user].pk, "description": description}
        message = Message(
            queue_name=queue,
            actor_name="obey",
            args=(ordered.key,),
            kwargs={"for_state": state},
            options=options,
        )
        ordered.id = broker.enqueue(message).message_id
        assert taskstate.flush(LIMIT_SECONDS)
        return ordered

    yield send
    for ordered in sent:
        ordered.order("end")
    close(broker)


class Ordered:
    """A message whose actor takes orders.

    Parameters:
      client(redis.Redis): The broker's.
      key(str): Of the list that takes the orders.
    """

    def __init__(self, client, key):
        self.client = client
        self.key = key
        self.id = None

    def order(self, name, *arguments):
        """Have the actor do something."""
        self.client.rpush(self.key, json.dumps([name, *arguments]))


@pytest.fixture
def cut_connections():
    """A function that ignores what the browser itself reports of connections that were cut."""

    def forget(page):
        assert page.console(but=NO_CONNECTION) == []

    return forget


@pytest.fixture
def script(page, wsgi):
    added = page.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": CLOCK})
    try:
        page.driver.get(f"{wsgi.url}/as/alice/?next=/")
        yield Script(page.driver)
    finally:
        page.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
