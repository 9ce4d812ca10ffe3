"""Settings of the project: those of the demo project, with more middleware and any broker.

``WORKS_BROKER`` is a broker's class, ``WORKS_OPTIONS`` its options, ``WORKS_FIRST`` says that our
middleware comes first.
"""

import json
import os

from benchmarks.demo.project.settings import *  # noqa: F403
from benchmarks.demo.project.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS[:-1], "tests.faults.works"]

STATE = "taskstate.middleware.StateMiddleware"
MIDDLEWARE_NAMES = ["AgeLimit", "TimeLimit", "Callbacks", "Pipelines", "CurrentMessage", "AsyncIO"]
_others = [
    *(f"dramatiq.middleware.{name}" for name in MIDDLEWARE_NAMES),
    "tests.faults.works.middleware.GroupCallbacks",
    "dramatiq.middleware.Retries",
]
DRAMATIQ_BROKER = {
    "BROKER": os.environ["WORKS_BROKER"],
    "OPTIONS": json.loads(os.environ.get("WORKS_OPTIONS", "{}")),
    "MIDDLEWARE": [STATE, *_others] if os.environ.get("WORKS_FIRST") else [*_others, STATE],
}
