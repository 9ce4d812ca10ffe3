"""``make screenshots``: the pictures of the README, taken in a real browser.

It serves the demo's site with a task in every state, and stops the clock, so that a picture changes
only when what it shows does (or the browser, or its fonts).  They go to docs/screenshots, or to the
folder that is given as an argument.
"""

import base64
import datetime
import os
import sys
import tempfile
import uuid
from pathlib import Path
from unittest import mock

import django
import dramatiq
from django.utils import timezone

from benchmarks import browser
from benchmarks.contenders import ROOT
from benchmarks.errors import BenchmarkError

FOLDER = ROOT / "docs" / "screenshots"
NOW = datetime.datetime(2026, 3, 4, 14, 30, tzinfo=datetime.timezone.utc)
WIDE = (1280, 800)
DETAIL = (1200, 850)
PAGE = (800, 660)
PHONE = (390, 750)
PHONE_DETAIL = (390, 1010)

FAILED = uuid.UUID(int=0x5EED0002)
#: Name, address, user, size, color scheme.
SHOTS = (
    ("page", "tasks/", "alice", PAGE, "light"),
    ("page-dark", "tasks/", "alice", PAGE, "dark"),
    ("page-phone", "tasks/", "alice", PHONE, "light"),
    ("admin-list", "admin/taskstate/task/", "admin", WIDE, "light"),
    ("admin-list-dark", "admin/taskstate/task/", "admin", WIDE, "dark"),
    ("admin-list-phone", "admin/taskstate/task/", "admin", PHONE, "light"),
    ("admin-task", f"admin/taskstate/task/{FAILED}/change/", "admin", DETAIL, "light"),
    ("admin-task-dark", f"admin/taskstate/task/{FAILED}/change/", "admin", DETAIL, "dark"),
    ("admin-task-phone", f"admin/taskstate/task/{FAILED}/change/", "admin", PHONE_DETAIL, "light"),
)

TRACEBACK = """\
Traceback (most recent call last):
  File "/srv/shop/tasks.py", line 41, in charge
    receipt = bank.charge(order.card, order.total)
              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/srv/shop/bank.py", line 88, in charge
    raise Declined(answer.reason)
shop.bank.Declined: the card has expired
"""

#: Of each task: seconds since it was enqueued, status, actor, description, user, and more fields.
#: Times are seconds before now.
TASKS = (
    (4, "enqueued", "mail", "Mail to 312 customers", "alice", {}),
    (38, "running", "export", "Export of the orders of 2025", "alice", {
        "started_at": 36, "progress": 64.2, "progress_text": "Writing order 7,704 of 12,000",
        "worker": "worker-1:4121",
    }),
    (95, "failed", "charge", "Charge for order 20417", "alice", {
        "started_at": 94, "finished_at": 31, "attempt": 2, "worker": "worker-2:4090",
        "error": "Declined: the card has expired", "traceback": TRACEBACK,
        "metadata": {"order": 20417, "currency": "EUR"}, "app_name": "shop", "model_name": "Order",
    }),
    (130, "delayed", "sync", "Stock of the warehouse", "alice", {
        "started_at": 129, "attempt": 1, "next_attempt_at": -50,
        "error": "TimeoutError: the warehouse did not answer",
    }),
    (160, "running", "thumbnails", "Pictures of the new chairs", "bob", {
        "started_at": 158, "progress": 18.0, "progress_text": "Picture 9 of 50",
        "worker": "worker-1:4122",
    }),
    (310, "done", "export", "Export of the orders of 2024", "alice", {
        "started_at": 309, "finished_at": 250, "progress": 100.0, "worker": "worker-1:4121",
        "result": {"rows": 11840, "file": "orders-2024.csv"},
    }),
    (420, "running", "import_prices", "Prices of the spring", "alice", {
        "started_at": 400, "progress_text": "Reading the list", "worker": "worker-2:4090",
    }),
    (900, "skipped", "mail", "Reminder of the sale", "alice", {"finished_at": 600}),
    (1500, "done", "invoice", "Invoice 2026-0311", "bob", {
        "started_at": 1499, "finished_at": 1497, "worker": "worker-2:4091",
    }),
    (3000, "done", "cleanup", "", None, {
        "started_at": 2999, "finished_at": 2990, "worker": "worker-1:4122",
    }),
)  # fmt: skip
TIMES = ("started_at", "finished_at", "next_attempt_at")


def main(folder=FOLDER):
    """Take all pictures; return the exit status."""
    try:
        browser.find()
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as var:
        os.environ.update(
            DJANGO_SETTINGS_MODULE="benchmarks.website.settings",
            DEMO_VAR=var,
            DATABASE=f"sqlite:///{var}/screenshots.sqlite3",
            BROKER="stub://",
        )
        django.setup()
        declare_actors()
        make_tasks()
        folder.mkdir(parents=True, exist_ok=True)
        take_all(folder)
    return 0


def declare_actors():
    """Declare the actors of the tasks in place of the demo's: the admin offers their names."""
    import benchmarks.project.tasks  # noqa: F401 - declares the demo's

    broker = dramatiq.get_broker()
    broker.actors.clear()
    broker.queues.clear()
    for name in {actor for _, _, actor, *_ in TASKS}:
        dramatiq.actor(int, actor_name=name)


def make_tasks():
    """Make the tables, the users, and a task in every state."""
    from django.core.management import call_command

    from benchmarks.website.users import make_users
    from taskstate.models import Task

    call_command("migrate", verbosity=0)
    users = make_users()
    for number, (age, status, actor, description, user, more) in enumerate(TASKS):
        fields = dict(more)
        for name in TIMES:
            if name in fields:
                fields[name] = before_now(fields[name])
        Task.objects.create(
            message_id=uuid.UUID(int=0x5EED0000 + number),
            status=status,
            actor_name=actor,
            queue_name="default",
            description=description,
            user=users.get(user),
            enqueued_at=before_now(age),
            updated_at=fields.get("finished_at") or fields.get("started_at") or before_now(age),
            rank=number,
            **fields,
        )


def before_now(seconds):
    """Return a time so many seconds ago."""
    return NOW - datetime.timedelta(seconds=seconds)


def take_all(folder):
    """Take each picture in a browser of its own size and color scheme."""
    from benchmarks.website.server import serve

    stopped = mock.patch.object(timezone, "now", return_value=NOW)
    with stopped, serve() as address, browser.start("--hide-scrollbars") as driver:
        driver.get(address)
        # The admin's own list of models would take the room that the tasks need.
        driver.execute_script("localStorage.setItem('django.admin.navSidebarIsOpen', 'false')")
        for name, path, user, size, scheme in SHOTS:
            picture = take(driver, f"{address}as/{user}/?next=/{path}", size, scheme)
            file = folder / f"{name}.png"
            file.write_bytes(picture)
            print(f"{file.name} {len(picture) / 1000:.0f} kB")


def take(driver, url, size, scheme):
    """Return what a page looks like, as a PNG."""
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
    media = {"features": [{"name": name, "value": value} for name, value in features.items()]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    driver.get(url)
    return base64.b64decode(driver.execute_cdp_cmd("Page.captureScreenshot", {})["data"])


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
