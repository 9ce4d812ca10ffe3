"""A site whose requests name their tenant in a header; users of all tenants have the same keys."""

import contextlib
from contextvars import ContextVar

from django.contrib import admin
from django.urls import include, path

from tests.support import website

urlpatterns = [
    path("admin/", admin.site.urls),
    path("tasks/", include("taskstate.urls")),
]

SETTINGS = {
    **website.SETTINGS,
    "ROOT_URLCONF": __name__,
    "MIDDLEWARE": [
        f"{__name__}.tenant_middleware",
        *website.SETTINGS["MIDDLEWARE"],
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    "TEMPLATES": [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    "TASKSTATE": {"TENANT": f"{__name__}.current_tenant", "KEEP_MESSAGE": True},
}

_present = ContextVar("tenant", default="")


def current_tenant():
    """What TASKSTATE["TENANT"] names."""
    return _present.get()


@contextlib.contextmanager
def tenant(name):
    """Be in a tenant."""
    token = _present.set(name)
    try:
        yield
    finally:
        _present.reset(token)


def tenant_middleware(get_response):
    """Be in the tenant that the request names, until there is a response."""

    def answer(request):
        with tenant(request.META.get("HTTP_X_TENANT", "")):
            return get_response(request)

    return answer


def use(settings):
    """Make this the site of a test."""
    for name, value in SETTINGS.items():
        # What is the same already stays: Django would compile all templates again.
        if getattr(settings, name, None) != value:
            setattr(settings, name, value)
