"""Suites of other projects: got, and run."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree

from tests.support.processes import ROOT

SUITE_SECONDS = 900
#: How long a single test may take: a machine that is busy with other tests is slow.
TEST_SECONDS = 240
#: The tests are a package, and ours is called "tests" already.
PACKAGE = "dramatiq_tests"


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


def run(folder, state, environment, package=PACKAGE, plugin="tests.faults.dramatiq_plugin"):
    """Run a suite; return the outcome of each test, what the plugin found, and the output."""
    here = folder / state
    here.mkdir()
    (here / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-c", "pytest.ini", "--rootdir", folder),
            *("-p", plugin, "-p", "no:randomly", "-p", "no:django"),
            *(
                "-p",
                "no:cacheprovider",
                "--timeout",
                str(TEST_SECONDS),
                "--junitxml",
                "outcomes.xml",
            ),
            folder / package,
        ],
        env={
            **os.environ,
            **environment,
            "DATABASE": f"sqlite:///{here / 'tasks.sqlite3'}",
            "DJANGO_SETTINGS_MODULE": "benchmarks.demo.project.settings",
            "DRILL_STATE": state,
            # So that no test finds a command to run, such as RabbitMQ's to stop it.
            "PATH": str(here),
            "PYTHONPATH": os.pathsep.join(
                [*filter(None, [environment.get("DRILL_PATH")]), str(ROOT), str(folder)]
            ),
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
