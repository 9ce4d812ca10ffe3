"""Describes where results come from: the machine, the versions, and the command."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
from pathlib import Path

from benchmarks.paths import ROOT
from benchmarks.runner import servers

PACKAGES = (
    "Django",
    "dramatiq",
    "django-dramatiq",
    "psycopg",
    "psycopg2-binary",
    "PyMySQL",
    "mysqlclient",
    "redis",
    "pika",
)


def machine():
    """Return the processor, cores, memory and operating system, but no host name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _field("/proc/cpuinfo", "model name", ":") or platform.machine(),
        "cores": os.cpu_count(),
        "memory": f"{memory / 2**30:.0f} GiB",
        "system": _field("/etc/os-release", "PRETTY_NAME", "=") or platform.system(),
    }


def _field(path, name, separator):
    """Return the first value with this name in a file of names and values, or None."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(separator)
        if key.strip() == name:
            return value.strip().strip('"')
    return None


def versions(used):
    """Return the versions of Python and of all packages and servers that a run uses.

    Parameters:
      used(Iterable): The names of databases and brokers.
    """
    found = {"Python": platform.python_version(), "dramatiq-taskstate": _own_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    for name in used:
        if name != "stub":
            found[f"{name} (server)" if name != "sqlite" else "SQLite"] = servers.version(name)
    return found


def _own_version():
    """Return the version of this package, with the commit if it is a Git clone.  The commit ends in
    ``-dirty`` if files differ from it, other than results."""
    from taskstate.version import __version__

    try:
        commit = _git("rev-parse", "--short", "HEAD")
        changes = _git("diff", "--name-only", "HEAD", "--", ".", ":(exclude)benchmarks/results")
    except (OSError, subprocess.SubprocessError):
        return __version__
    return f"{__version__} ({commit}{'-dirty' if changes else ''})"


def _git(*arguments):
    done = subprocess.run(
        ["git", "-C", str(ROOT), *arguments],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return done.stdout.strip()


def command(arguments):
    """Return the command that repeats a run, without the folder of its results."""
    kept = []
    skip = False
    for argument in arguments:
        if not skip and argument.partition("=")[0] != "--output":
            kept.append(argument)
        skip = argument == "--output"
    return shlex.join(["python", "-m", "benchmarks", *kept])
