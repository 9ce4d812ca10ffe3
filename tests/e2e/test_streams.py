"""Streams of events from a real server, which ends at once when it is asked to."""

import contextlib
import http.client
import signal

import django
import pytest

from benchmarks.demo.website.users import FIRST, make_users
from taskstate.views import streams
from tests.support.limits import LIMIT_SECONDS
from tests.support.live_website import HOST, Website
from tests.support.processes import environment


@pytest.fixture
def site(sqlite):
    """The site under uvicorn, and its users."""
    users = make_users()
    env = environment("default", DJANGO_SETTINGS_MODULE="tests.browser.settings")
    with Website("asgi", env) as site:
        yield site
    for user in users.values():
        user.delete()


@pytest.mark.skipif(django.VERSION < (4, 2), reason="Django streams from 4.2")
def test_a_server_ends_with_open_streams(site):
    """It waits for the answers under way, and a stream would go on for longer than this test."""
    with contextlib.ExitStack() as stack:
        cookies = get(stack, site, f"/as/{FIRST}/").headers.get_all("Set-Cookie")
        signed_in = {"Cookie": "; ".join(cookie.partition(";")[0] for cookie in cookies)}
        many = range(streams.STREAMS_PER_USER + 1)
        responses = [get(stack, site, "/tasks/events/", signed_in) for _ in many]
        *open_, rejected = responses
        assert {response.status for response in open_} == {200}
        assert rejected.status == 204
        for response in open_:
            assert response.readline().startswith(b"id: ")

        site.process.send_signal(signal.SIGTERM)
        site.process.wait(LIMIT_SECONDS)
        assert all(response.read().startswith(b"data: ") for response in open_), "they were ended"


def get(stack, site, path, headers=None):
    """Return a response, of which the rest may follow."""
    connection = http.client.HTTPConnection(HOST, site.port, timeout=LIMIT_SECONDS)
    stack.callback(connection.close)
    connection.request("GET", path, headers=headers or {})
    return stack.enter_context(connection.getresponse())
