"""The site of the demo, with an actor that does what a test orders."""

from benchmarks.website.settings import *  # noqa: F403
from benchmarks.website.settings import INSTALLED_APPS as SITE_APPS

INSTALLED_APPS = [*SITE_APPS, "tests.browser"]
