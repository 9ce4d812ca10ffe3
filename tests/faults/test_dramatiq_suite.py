"""Dramatiq's own tests, with and without our middleware among that of their brokers."""

import collections
import tarfile
from pathlib import Path

import dramatiq
import pytest

from tests.faults import private
from tests.faults.options import NIGHTLY
from tests.faults.suites import PACKAGE, SUITE_SECONDS, download, run
from tests.support import servers

#: The messages of the suite aren't tracked: with "tracked" they look as if they were.
STATES = ["without", "untracked", "tracked"] if NIGHTLY else ["without", "tracked"]
#: These start Dramatiq's command line on brokers of their own, or watch files.
OTHERS = ["test_cli.py", "test_pidfile.py", "test_watch.py"]


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
