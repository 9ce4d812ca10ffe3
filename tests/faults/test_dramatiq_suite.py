"""Dramatiq's own tests, with and without our middleware among that of their brokers."""

import collections
import json
import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree
from pathlib import Path

import dramatiq
import pytest

from tests import servers
from tests.faults import private
from tests.faults.conftest import NIGHTLY
from tests.processes import ROOT

SUITE_SECONDS = 900
#: The messages of the suite aren't tracked: with "tracked" they look as if they were.
STATES = ["without", "untracked", "tracked"] if NIGHTLY else ["without", "tracked"]
#: The tests are a package, and ours is called "tests" already.
PACKAGE = "dramatiq_tests"
#: These start Dramatiq's command line on brokers of their own, or watch files.
OTHERS = ["test_cli.py", "test_pidfile.py", "test_watch.py"]


def download(folder, requirement):
    """Get a source distribution of Dramatiq; return the file, or None."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        ":all:",
    ]
    subprocess.run([*command, "--dest", folder, requirement], check=False, timeout=300)
    return next(iter(folder.glob("*.tar.gz")), None)


@pytest.fixture(scope="session")
def suite(tmp_path_factory):
    """The folder with Dramatiq's tests: those of the installed release or, where its source
    distribution has none (before 1.17, say), of the newest release for this Python."""
    for requirement in (f"dramatiq=={dramatiq.__version__}", "dramatiq"):
        folder = tmp_path_factory.mktemp("dramatiq")
        archive = download(folder, requirement)
        if archive is not None and unpack(archive, folder / PACKAGE):
            return folder, archive.name
    text = "no source distribution of Dramatiq with tests could be downloaded"
    return pytest.fail(text) if servers.required() else pytest.skip(text)


def unpack(archive, package):
    """Write the tests of a source distribution into a package; return whether there are any."""
    package.mkdir()
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            path = Path(member.name)
            if path.match("*/tests/test_*.py") and path.name not in OTHERS:
                (package / path.name).write_bytes(tar.extractfile(member).read())
    (package / "__init__.py").touch()
    (package / "common.py").write_text("from tests.faults.dramatiq_plugin import *\n")
    return len(list(package.iterdir())) > 2


def run(folder, state, environment):
    """Run the suite; return the outcome of each test, and what the plugin found."""
    here = folder / state
    here.mkdir()
    (here / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-c", "pytest.ini", "--rootdir", folder),
            *("-p", "tests.faults.dramatiq_plugin", "-p", "no:randomly", "-p", "no:django"),
            *("-p", "no:cacheprovider", "--timeout", "60", "--junitxml", "outcomes.xml"),
            folder / PACKAGE,
        ],
        env={
            **os.environ,
            **environment,
            "DATABASE": f"sqlite:///{here / 'tasks.sqlite3'}",
            "DJANGO_SETTINGS_MODULE": "benchmarks.project.settings",
            "DRILL_STATE": state,
            # So that no test finds a command to run, such as RabbitMQ's to stop it.
            "PATH": str(here),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]),
        },
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SUITE_SECONDS,
        check=False,
    )
    assert (here / "found.json").exists(), done.stdout[-4000:]
    outcomes = {}
    for case in xml.etree.ElementTree.parse(here / "outcomes.xml").iter("testcase"):
        problems = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        outcomes[f"{case.get('classname')}::{case.get('name')}"] = (problems or ["passed"])[0]
    return outcomes, json.loads((here / "found.json").read_text()), done.stdout


@pytest.mark.timeout(len(STATES) * SUITE_SECONDS + 300)
def test_the_suite_of_dramatiq(suite, report):
    """All that passes without our middleware passes with it, whether messages are tracked or not;
    each tracked message has a row, and nothing is logged."""
    folder, archive = suite
    with private.Redis() as redis, private.RabbitMq() as rabbitmq:
        env = {"DRILL_REDIS": redis.url(), "DRILL_RABBITMQ": rabbitmq.url()}
        runs = {state: run(folder, state, env) for state in STATES}
    expected = {name for name, outcome in runs["without"][0].items() if outcome == "passed"}
    for state, (outcomes, found, output) in runs.items():
        report(
            f"{archive} on dramatiq {dramatiq.__version__}, {state}: "
            f"{dict(collections.Counter(outcomes.values()))}; {len(found['seen'])} messages, "
            f"{len(found['rows'])} rows, {len(found['errors'])} log records of ours"
        )
        lost = {name: outcomes.get(name) for name in expected if outcomes.get(name) != "passed"}
        assert lost == {}, output[-8000:]
        assert found["errors"] == []
        assert found["rows"] == (found["seen"] if state == "tracked" else [])
    assert len(expected) > 100
