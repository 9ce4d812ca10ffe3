"""The demo: its figures, and the page that it serves meanwhile."""

import http.cookiejar
import io
import os
import re
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

import pytest

from benchmarks.demo import __main__ as demo
from tests.support.harness import AGE_LIMIT_SKIPS
from tests.support.limits import LIMIT_SECONDS
from tests.support.processes import ROOT

#: The other tests' processes are those of the demo's project, on each release.
pytestmark = pytest.mark.once

ADDRESS = r"http://127\.0\.0\.1:\d+/"


def run_demo(folder, stdin):
    env = {**os.environ, "DEMO_VAR": str(folder), "DATABASE": "", "BROKER": ""}
    env["PYTHONUNBUFFERED"] = "1"
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.demo"],
        cwd=ROOT,
        env=env,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_until(process, pattern, lines):
    """Read what a process prints until a line matches; its own limit ends it."""
    for line in process.stdout:
        lines.append(line)
        found = re.search(pattern, line)
        if found:
            return found[0]
    raise AssertionError("".join(lines))


class Visitor:
    """A user without a browser, who keeps cookies."""

    def __init__(self, address):
        self.address = address
        self.cookies = http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.cookies))

    def open(self, path="", **data):
        if data:
            (token,) = (cookie.value for cookie in self.cookies if cookie.name == "csrftoken")
            data["csrfmiddlewaretoken"] = token
        body = urllib.parse.urlencode(data).encode() or None
        with self.opener.open(self.address + path, body, timeout=LIMIT_SECONDS) as answer:
            return answer.read().decode()

    def open_until(self, text, path=""):
        deadline = time.monotonic() + LIMIT_SECONDS
        pause = threading.Event()
        while text not in self.open(path):
            assert time.monotonic() < deadline, self.open(path)
            pause.wait(0.1)


@pytest.mark.skipif(not AGE_LIMIT_SKIPS, reason="Dramatiq before 1.13 fails what it should skip")
def test_the_demo_counts_and_its_page_stays(tmp_path):
    """The output names the page and states what fails and why, and more messages can be sent."""
    terminal, stdin = os.openpty()
    lines = []
    with run_demo(tmp_path, stdin) as process:
        try:
            address = read_until(process, ADDRESS, lines)
            visitor = Visitor(address)
            visitor.open_until("The card was declined.", "tasks/")
            read_until(process, "stays until you press Enter", lines)
            assert "<task-progress" in visitor.open()
            visitor.open("start/", button="charge")
            visitor.open_until("The card was declined.")
            os.write(terminal, b"\n")
            lines.append(process.communicate(timeout=LIMIT_SECONDS)[0])
        finally:
            process.kill()
            os.close(terminal)
            os.close(stdin)

    shown = "".join(lines)
    assert process.returncode == 0, shown
    assert "failed: Expected: The card was declined." in shown
    assert re.search(r"report \d: \d+ %", shown), shown
    for name, number in [("messages", "2,500"), ("transitions seen", "7,050"), ("rows", "2,000")]:
        assert re.search(rf"{name} +\S +{number} +\S +{number}", shown), shown


def test_the_demo_ends_by_itself_without_a_terminal(monkeypatch):
    """As in CI: its standard input is no terminal."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("not a terminal"))

    assert demo.stay("http://127.0.0.1:1/") is None
