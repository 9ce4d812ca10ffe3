"""``make screenshots``: takes the screenshots of the README and the guides in a real browser.

Those of the tutorial come from ``.ci/quickstart --pictures``.

It serves the demo's website with a task in every status and stops the clock, so that a screenshot
changes only when the page changes, or the browser or its fonts.  The files go to docs/screenshots,
or to the folder that is given as an argument.
"""

import base64
import io
import os
import sys
import tempfile
from pathlib import Path
from unittest import mock

import django
from django.utils import timezone
from PIL import Image

from benchmarks.demo import browser
from benchmarks.errors import BenchmarkError
from benchmarks.paths import ROOT

FOLDER = ROOT / "docs" / "screenshots"
WIDE = (1280, 800)
DETAIL = (1200, 850)
PAGE = (800, 660)
PHONE = (390, 750)
PHONE_DETAIL = (390, 1010)

#: The example task that has failed.
FAILED = "admin/taskstate/task/00000000-0000-0000-0000-00005eed0002/change/"
#: Name, path, user, size, color scheme.
SHOTS = (
    ("page", "tasks/", "alice", PAGE, "light"),
    ("page-dark", "tasks/", "alice", PAGE, "dark"),
    ("page-phone", "tasks/", "alice", PHONE, "light"),
    ("admin-list", "admin/taskstate/task/", "admin", WIDE, "light"),
    ("admin-list-dark", "admin/taskstate/task/", "admin", WIDE, "dark"),
    ("admin-list-phone", "admin/taskstate/task/", "admin", PHONE, "light"),
    ("admin-task", FAILED, "admin", DETAIL, "light"),
    ("admin-task-dark", FAILED, "admin", DETAIL, "dark"),
    ("admin-task-phone", FAILED, "admin", PHONE_DETAIL, "light"),
)
#: The moving picture of the page: how many frames, how long each is shown, in milliseconds, and how
#: many colors it has.
FRAMES = 26
FRAME_MS = 240
LAST_FRAME_MS = 2400
COLORS = 160


def main(folder=FOLDER):
    """Take all screenshots; return the exit status."""
    try:
        browser.find()
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as var:
        os.environ.update(
            DJANGO_SETTINGS_MODULE="benchmarks.demo.website.settings",
            DEMO_VAR=var,
            DATABASE=f"sqlite:///{var}/screenshots.sqlite3",
            BROKER="stub://",
        )
        django.setup()
        # These modules need the settings.
        from django.core.management import call_command

        from benchmarks.demo import example_tasks

        call_command("migrate", verbosity=0)
        example_tasks.declare_actors()
        example_tasks.make_tasks()
        folder.mkdir(parents=True, exist_ok=True)
        with mock.patch.object(timezone, "now", return_value=example_tasks.NOW):
            take_all(folder)
    return 0


def take_all(folder):
    """Take each screenshot, with its size and color scheme."""
    # Imported here: the module needs the settings.
    from benchmarks.demo.website.server import serve

    with serve() as address, browser.start("--hide-scrollbars") as driver:
        driver.get(address)
        # Hides the admin's list of models, which takes up the width that the tasks need.
        driver.execute_script("localStorage.setItem('django.admin.navSidebarIsOpen', 'false')")
        for name, path, user, size, scheme in SHOTS:
            picture = take(driver, f"{address}as/{user}/?next=/{path}", size, scheme)
            save(folder / f"{name}.png", picture)
        save(folder / "page.gif", record(driver, f"{address}as/alice/?next=/tasks/"))


def save(file, picture):
    """Write a picture to a file, and say how large it is."""
    file.write_bytes(picture)
    print(f"{file.name} {len(picture) / 1000:.0f} kB")


def record(driver, url):
    """Return a moving picture of a page, as GIF: its tasks go on from frame to frame."""
    # Imported here: the module needs the settings.
    from benchmarks.demo import example_tasks

    frames = []
    for number in range(FRAMES):
        example_tasks.go_on(number / (FRAMES - 1))
        frame = Image.open(io.BytesIO(take(driver, url, PAGE, "light")))
        frames.append(frame.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE))
    file = io.BytesIO()
    frames[0].save(
        file,
        format="GIF",
        save_all=True,
        append_images=frames[1:],
        duration=[FRAME_MS] * (FRAMES - 1) + [LAST_FRAME_MS],
        loop=0,
    )
    return file.getvalue()


def take(driver, url, size, scheme):
    """Return a screenshot of a page as PNG."""
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
