"""A site with ``taskstate.urls``, for tests that ask it: its URLs, and its settings."""

from django.urls import include, path

urlpatterns = [path("tasks/", include("taskstate.urls"))]

SETTINGS = {
    "ROOT_URLCONF": __name__,
    "STATIC_URL": "/static/",
    "LOGIN_URL": "/sign-in/",
    # No table of sessions.
    "SESSION_ENGINE": "django.contrib.sessions.backends.signed_cookies",
    "MIDDLEWARE": [
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.locale.LocaleMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    "TEMPLATES": [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
}


def use(settings):
    """Make this the site of a test."""
    for name, value in SETTINGS.items():
        # What is the same already stays: Django would compile all templates again.
        if getattr(settings, name, None) != value:
            setattr(settings, name, value)
