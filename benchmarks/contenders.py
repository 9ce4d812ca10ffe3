"""The contenders: the same project and the same messages, tracked by one middleware or another."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path

from benchmarks.errors import BenchmarkError

ROOT = Path(__file__).resolve().parents[1]
#: Where peers are installed, each into a folder of its own: their packages may be named alike.
PEERS = ROOT / "var" / "peers"
INSTALL_SECONDS = 120

OURS = ("django_dramatiq", "taskstate")


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to track messages."""

    name: str
    #: The path of its middleware, or None.
    middleware: str | None
    apps: tuple[str, ...] = OURS
    #: The value of the ``TASKSTATE`` setting.
    taskstate: dict[str, object] = dataclasses.field(default_factory=dict)
    #: The model that gets a row per message, or None.
    model: str | None = "taskstate.Task"
    #: What pip installs, if it isn't part of this project.
    requirements: tuple[str, ...] = ()
    #: It takes so many times fewer messages, so that a round stays short.
    divisor: int = 1
    #: The databases it runs on.
    databases: tuple[str, ...] = ("sqlite", "postgres", "mariadb")

    @property
    def is_ours(self):
        """Whether its rows are written by this project's own ``StateMiddleware``."""
        return not self.requirements and self.model == "taskstate.Task"

    @property
    def slug(self):
        """Its name as a part of a database's name."""
        return self.name.replace("-", "_").replace(".", "_")

    @property
    def folder(self):
        """Where its packages come first from."""
        return PEERS / self.name if self.requirements else ROOT

    def share(self, messages):
        """Return how many of ``messages`` it takes."""
        return max(1, messages // self.divisor)


_ALL = (
    Contender("untracked", None, apps=("django_dramatiq",), model=None),
    Contender(
        "upsert",
        "taskstate.middleware.StateMiddleware",
        taskstate={"STORE": "upsert"},
    ),
    Contender(
        "before-ack",
        "taskstate.middleware.StateMiddleware",
        taskstate={"FLUSH_BEFORE_ACK": True},
    ),
    Contender(
        "orm",
        "taskstate.middleware.StateMiddleware",
        taskstate={"STORE": "orm"},
    ),
    Contender(
        "plain-orm",
        "benchmarks.plain.PlainStateMiddleware",
    ),
    Contender(
        "admin",
        "django_dramatiq.middleware.AdminMiddleware",
        apps=("django_dramatiq",),
        model="django_dramatiq.Task",
        divisor=10,
    ),
    Contender(
        "0.3.4",
        "taskstate.middleware.StateMiddleware",
        apps=("django.contrib.postgres", "django_dramatiq", "taskstate"),
        # Its app can't be loaded without channels.
        requirements=("dramatiq-taskstate==0.3.4", "channels"),
        divisor=10,
        # Its model has an array.
        databases=("postgres",),
    ),
)
CONTENDERS = {contender.name: contender for contender in _ALL}


def provide(contender):
    """Install what a contender needs, or raise ``BenchmarkError``."""
    if contender.requirements and not contender.folder.exists():
        _install(contender)
    module = (contender.middleware or "").rpartition(".")[0]
    if module.startswith("benchmarks.") and not importlib.util.find_spec(module):
        raise BenchmarkError(
            f"The contender {contender.name} needs {module.replace('.', '/')}.py, which is not "
            "there. Leave it out with --contenders."
        )


def _install(contender):
    # Without what it depends on: the versions under test are those of this environment.
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command += ["--target", str(contender.folder), *contender.requirements]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
    )
    if done.returncode:
        raise BenchmarkError(
            f"The contender {contender.name} could not be installed; leave it out with "
            f"--contenders. pip says: {done.stderr.strip()}"
        )
