"""Django's cache of a whole site: it gives no user the tasks of another."""

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.core.cache import cache
from django.test import Client

from taskstate.models import Status, Task
from tests.support import website
from tests.support.factories import make_id

JSON, PAGE, LIST = "/tasks/json/", "/tasks/", "/admin/taskstate/task/"
ADMIN_PAGES = (LIST, f"{LIST}{make_id(1)}/change/")
CACHE = "django.middleware.cache.{}CacheMiddleware"


def token_authentication(get_response):
    """Sign in whom the header names.  As such packages do, it says nothing to caches."""

    def respond(request):
        name = request.META.get("HTTP_AUTHORIZATION")
        if name:
            request.user = get_user_model().objects.filter(username=name).first() or AnonymousUser()
        return get_response(request)

    return respond


@pytest.fixture(autouse=True)
def site(settings, sqlite):
    """A site that caches all of its pages for ten minutes."""
    website.use(settings)
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    settings.CACHE_MIDDLEWARE_SECONDS = 600
    settings.MIDDLEWARE = [
        CACHE.format("Update"),
        *settings.MIDDLEWARE,
        "django.contrib.messages.middleware.MessageMiddleware",
        f"{__name__}.token_authentication",
        CACHE.format("FetchFrom"),
    ]
    yield
    cache.clear()


@pytest.fixture
def users(sqlite):
    """Two users with a task each."""
    made = [get_user_model().objects.create(username=name) for name in ("anna", "bert")]
    for number, user in enumerate(made):
        Task.objects.create(
            message_id=make_id(number),
            status=Status.RUNNING,
            user_id=user.pk,
            actor_name="export",
            description=f"Secret of {user.username}",
            enqueued_at="2026-01-01T00:00:00Z",
            updated_at="2026-01-01T00:00:00Z",
            stamp=1,
            rank=1,
        )
    yield made
    for user in made:
        user.delete()


@pytest.mark.parametrize("url", [JSON, PAGE])
def test_a_user_who_was_signed_out_sees_nothing(url, users):
    """By a new password, so that the browser sends the same cookie as before."""
    anna, _ = users
    client = Client()
    client.force_login(anna)
    assert b"Secret of anna" in client.get(url).content

    anna.set_password("another")
    anna.save()
    assert b"Secret" not in client.get(url).content


@pytest.mark.parametrize("url", [JSON, PAGE])
def test_users_with_tokens_see_their_own(url, users):
    """Both users request the same URL, without a cookie."""
    for user in users:
        content = Client().get(url, HTTP_AUTHORIZATION=user.username).content.decode()
        assert [u.username for u in users if f"Secret of {u.username}" in content] == [
            user.username
        ]
    assert b"Secret" not in Client().get(url).content


@pytest.mark.parametrize("url", ADMIN_PAGES)
def test_the_admin_is_not_kept(url, users, settings):
    """Django's own headers see to that: those of its ``never_cache``."""
    settings.ROOT_URLCONF = "tests.urls"
    get_user_model().objects.update(is_staff=True, is_superuser=True)
    response = Client().get(url, HTTP_AUTHORIZATION="anna")
    assert response.status_code == 200
    assert {"no-store", "private"} <= set(response["Cache-Control"].split(", "))

    get_user_model().objects.update(is_staff=False, is_superuser=False)
    assert Client().get(url, HTTP_AUTHORIZATION="anna").status_code == 302


@pytest.mark.parametrize("url", [JSON, PAGE])
def test_the_language_is_named_to_caches(url, users):
    """By the middleware that decides about it."""
    response = Client().get(url, HTTP_AUTHORIZATION="anna")

    assert "Accept-Language" in response["Vary"]
