"""The site of the demo in the language of a cookie, with an actor that does what a test orders."""

from benchmarks.demo.website.settings import *  # noqa: F403
from benchmarks.demo.website.settings import INSTALLED_APPS as SITE_APPS
from benchmarks.demo.website.settings import MIDDLEWARE as SITE_MIDDLEWARE

INSTALLED_APPS = [*SITE_APPS, "tests.browser"]
MIDDLEWARE = [*SITE_MIDDLEWARE, "django.middleware.locale.LocaleMiddleware"]
