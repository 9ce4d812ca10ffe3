"""What several files of the project state about the same thing: releases, versions and commands."""

import re
import sys
from pathlib import Path

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[1]

PYTHON = "Programming Language :: Python :: "
DJANGO = "Framework :: Django :: "


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def read_yaml(path):
    return yaml.safe_load(read(path))


PYPROJECT = tomllib.loads(read("pyproject.toml"))
PROJECT = PYPROJECT["project"]
TOX = PYPROJECT["tool"]["tox"]
ENVIRONMENTS = TOX["env_list"]
JOBS = read_yaml(".github/workflows/ci.yml")["jobs"]
HOOKS = [hook for repo in read_yaml(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]


def version(text):
    """Return a version as numbers: (3, 13) for "3.13"."""
    return tuple(map(int, text.split(".")))


def python_of(environment):
    """Return the Python of an environment of tox: "3.13" for "py313-newest"."""
    return re.sub(r"py3(\d+)-.*", r"3.\1", environment)


def versions_of(classifier):
    """Return the versions, of two numbers, that the classifiers name."""
    found = [line[len(classifier) :] for line in PROJECT["classifiers"] if classifier in line]
    return sorted((text for text in found if "." in text), key=version)


def pins(factor):
    """Return what tox pins for a factor: {"Django": "3.2"}."""
    (chosen,) = [
        item["then"]
        for item in TOX["env_run_base"]["deps"]
        if item["condition"] == f"factor.{factor}"
    ]
    return dict(pin[:-2].split("==") for pin in chosen if pin.endswith(".*"))


def make_targets(text):
    """Return the targets of the calls of make."""
    return set(re.findall(r"^\W*(?:\w+=\S+ )*make ([a-z]\w*)", text, re.MULTILINE))


def commands(job):
    return "\n".join(step.get("run", "") for step in job["steps"])


def test_the_workflow_runs_every_environment_of_tox():
    rows = JOBS["tests"]["strategy"]["matrix"]["include"]
    assert rows == [{"env": name, "python": python_of(name)} for name in ENVIRONMENTS]


def test_the_script_names_environments_of_tox():
    (names,) = re.findall(r"-e (py[\w,-]+)$", read(".ci/run"), re.MULTILINE)
    assert set(names.split(",")) <= set(ENVIRONMENTS)


def test_one_environment_of_tox_runs_the_tests_marked_as_once():
    """The script runs all tests on that Python."""
    ((name, environment),) = TOX["env"].items()
    assert name in ENVIRONMENTS
    assert "not once" in TOX["env_run_base"]["commands"][0]
    assert "-m" not in environment["commands"][0][3:]
    script = read(".ci/run")
    assert f'make test PYTHON="$(command -v python{python_of(name)})"' in script


def test_the_classifiers_name_every_python_from_the_oldest_to_the_newest_of_the_matrix():
    matrix = sorted({version(python_of(name)) for name in ENVIRONMENTS})
    (_, oldest), (_, newest) = matrix[0], matrix[-1]
    assert versions_of(PYTHON) == [f"3.{minor}" for minor in range(oldest, newest + 1)]


def test_python_has_one_oldest_and_one_newest_release():
    oldest, *_, newest = versions_of(PYTHON)
    assert PROJECT["requires-python"] == f">={oldest}"
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert PYPROJECT["tool"]["mypy"]["python_version"] == newest


def test_the_oldest_of_everything_is_what_the_dependencies_allow():
    bounds = dict(line.split(">=") for line in PROJECT["dependencies"])
    assert pins("oldest") == bounds


@pytest.mark.parametrize("factor", ["oldest", "django42", "django52"])
def test_the_classifiers_name_each_django_that_tox_pins(factor):
    assert pins(factor)["Django"] in versions_of(DJANGO)


def test_the_tools_of_lint_are_pinned_and_kept_up_to_date():
    pinned = [line.split("==")[0] for line in PROJECT["optional-dependencies"]["lint"]]
    assert all("==" in line for line in PROJECT["optional-dependencies"]["lint"])
    (pip,) = [
        entry
        for entry in read_yaml(".github/dependabot.yml")["updates"]
        if entry["package-ecosystem"] == "pip"
    ]
    assert sorted(pinned) == [allowed["dependency-name"] for allowed in pip["allow"]]


def test_the_hooks_are_the_parts_of_make_lint():
    (parts,) = re.findall(r"^lint: (.+)$", read("Makefile"), re.MULTILINE)
    assert [hook["entry"] for hook in HOOKS] == [f"make {part}" for part in parts.split()]


def test_the_workflow_makes_what_the_script_makes():
    script = make_targets(read(".ci/run"))
    assert script >= {"lint", "test", "faults", "bench"}
    assert make_targets("\n".join(map(commands, JOBS.values()))) == script
    assert ".ci/quickstart" in commands(JOBS["quickstart"])


@pytest.mark.parametrize("name", JOBS)
def test_every_job_ends_within_two_hours(name):
    assert JOBS[name]["timeout-minutes"] <= 120


def test_a_container_looks_for_every_server_where_its_service_is():
    for name in ("browser", "drills"):
        job = JOBS[name]
        hosts = {re.search(r"[@/](\w+):\d", url).group(1) for url in job["env"].values()}
        assert hosts == set(job["services"])
