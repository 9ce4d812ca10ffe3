"""The website for ASGI servers, with its static files."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.demo.website.settings")
django.setup()

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402

application = ASGIStaticFilesHandler(get_asgi_application())
