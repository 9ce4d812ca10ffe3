"""Settings of the website: those of the demo's project, and what pages need."""

from benchmarks.demo.project.settings import *  # noqa: F403
from benchmarks.demo.project.settings import INSTALLED_APPS as PROJECT_APPS

# Every visitor is signed in, so only this machine may visit.
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "benchmarks.demo.website.urls"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    *PROJECT_APPS,
    "benchmarks.demo.website",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "benchmarks.demo.website.middleware.content_security_policy",
]
TEMPLATES = [
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
]
LOGIN_URL = "/as/alice/"
STATIC_URL = "/static/"
# Sessions in cookies need no table.
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
