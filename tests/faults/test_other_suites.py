"""The tests of projects around Dramatiq, with and without our middleware on their brokers.

Only by night: their newest releases come from the package index.
"""

import collections
import tarfile
from pathlib import Path
from urllib.parse import urlsplit

import dramatiq
import pytest

from tests.faults import private
from tests.faults.brokers import install
from tests.faults.suites import download, run

#: Each project, what its tests need beside it, and its folders of tests that are left out: those
#: that need other programs.
PROJECTS = {
    "dramatiq-abort": ([], []),
    "dramatiq-crontab": ([], []),
    "dramatiq-kombu-broker": (["pytest-mock"], ["integration"]),
    "dramatiq-redis-streams": ([], []),
    "joeflow": ([], []),
}
SUITE_SECONDS = 900


def unpack(archive, package, left_out):
    """Write the tests of a source distribution into a package of another name than ours; return
    whether there are any."""
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            parts = Path(member.name).parts[1:]
            if not member.isfile() or parts[0] != "tests" or {*left_out} & {*parts}:
                continue
            path = package.joinpath(*parts[1:])
            path.parent.mkdir(parents=True, exist_ok=True)
            text = tar.extractfile(member).read()
            path.write_bytes(text.replace(b'"tests.', f'"{package.name}.'.encode()))
    return package.exists()


@pytest.mark.timeout(2 * SUITE_SECONDS + 300)
@pytest.mark.parametrize("name", PROJECTS)
def test_the_suite_of(name, tmp_path, report):
    """All that passes without our middleware passes with it, every message looking tracked; each
    message has a row, and nothing is logged."""
    requirements, left_out = PROJECTS[name]
    archive = download(tmp_path, name)
    if archive is None:
        pytest.skip(f"the package index has no source distribution of {name}")
    package = tmp_path / f"{name.replace('-', '_')}_suite"
    if not unpack(archive, package, left_out):
        pytest.skip(f"{archive.name} has no tests")
    pinned = f"dramatiq=={dramatiq.__version__}"
    folder = install(tmp_path / "packages", name, pinned, *requirements)
    runs = {}
    with private.Redis() as redis, private.RabbitMq() as rabbitmq:
        address = urlsplit(rabbitmq.url())
        env = {
            "DRILL_REDIS": redis.url(),
            "DRILL_RABBITMQ": rabbitmq.url(),
            "PYTEST_RABBITMQ_HOST": address.hostname,
            "PYTEST_RABBITMQ_PORT": str(address.port),
            "DRILL_PATH": folder,
        }
        for state in ("without", "tracked"):
            runs[state] = run(tmp_path, state, env, package.name, "tests.faults.other_plugin")
    for state, (outcomes, found, _) in runs.items():
        report(
            f"{archive.name} on dramatiq {dramatiq.__version__}, {state}: "
            f"{dict(collections.Counter(outcomes.values()))}; {len(found['seen'])} messages, "
            f"{len(found['rows'])} rows, {len(found['errors'])} log records of ours"
        )
    expected = {test for test, outcome in runs["without"][0].items() if outcome == "passed"}
    assert expected
    outcomes, found, output = runs["tracked"]
    lost = {test: outcomes.get(test) for test in expected if outcomes.get(test) != "passed"}
    assert lost == {}, output[-8000:]
    assert found["errors"] == []
    assert found["rows"] == found["seen"]
