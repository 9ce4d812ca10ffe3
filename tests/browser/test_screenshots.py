"""The pictures of the documentation can be taken again."""

import subprocess
import sys

import pytest

from benchmarks.demo import browser, screenshots
from benchmarks.errors import BenchmarkError
from tests.browser.page import need_browser
from tests.support.limits import LIMIT_SECONDS
from tests.support.processes import ROOT

#: How many bytes a picture of the README may have, by the beginning of its file.
LARGEST = {b"\x89PNG": 150_000, b"GIF8": 400_000}


def test_all_pictures_are_taken(tmp_path):
    """Those of the README and the guides, and none that is too large.  The pictures of the tutorial
    are taken by ``.ci/quickstart``."""
    need_browser()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.demo.screenshots", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS * 4,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    taken = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    pictures = {path.name for path in screenshots.FOLDER.iterdir()}
    assert set(taken) == {name for name in pictures if not name.startswith("tutorial-")}
    assert all(picture[:4] in LARGEST for picture in taken.values())
    too_large = {name for name, picture in taken.items() if len(picture) > LARGEST[picture[:4]]}
    assert too_large == set()


def test_the_error_of_a_missing_browser_states_what_to_do(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(BenchmarkError, match="apt-get install chromium chromium-driver"):
        browser.find()
    assert screenshots.main(tmp_path) == 1
    assert "chromium and chromedriver can't be found" in capsys.readouterr().err
