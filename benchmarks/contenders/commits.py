"""Commits of this repository, whose ``taskstate`` is measured beside that of the working tree.

A contender of this package may be followed by a commit, such as ``upsert@7449e23`` or
``upsert@HEAD~2``.
"""

import io
import re
import subprocess
import tempfile
import zipfile
from pathlib import Path

from benchmarks.contenders.registry import CONTENDERS
from benchmarks.errors import BenchmarkError
from benchmarks.paths import ROOT

#: A contender and a commit, in a list that is separated by commas.
AT_COMMIT = re.compile(r"(?<![^,=])([\w.-]+)@([^,]+)")
TIMEOUT_SECONDS = 60


def pin(argument):
    """Return an argument of the command with the id of each commit in place of another name for it.

    Raises:
      BenchmarkError: If the reference names no commit.
    """

    def replace(found):
        return f"{found[1]}@{commit_id(found[2])}" if found[1] in CONTENDERS else found[0]

    return AT_COMMIT.sub(replace, argument)


def commit_id(name):
    """Return the short id of a commit."""
    found = _git("rev-parse", "--short", "--verify", f"{name}^{{commit}}")
    return found.decode().strip()


def extract(commit, folder):
    """Write the ``taskstate`` of a commit into a new folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    archive = _git("archive", "--format=zip", f"--prefix={folder.name}/", commit, "taskstate")
    with tempfile.TemporaryDirectory(dir=folder.parent) as parts:
        zipfile.ZipFile(io.BytesIO(archive)).extractall(parts)
        # Last, so that an interrupted run leaves no incomplete folder with this name.
        Path(parts, folder.name).rename(folder)


def _git(*arguments):
    try:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments],
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            check=True,
        ).stdout
    except subprocess.CalledProcessError as error:
        raise BenchmarkError(
            f"git {' '.join(arguments)} failed. Contenders such as upsert@COMMIT need a clone of "
            f"the repository, and a commit that has the package: {error.stderr.decode().strip()}"
        ) from error
    except OSError as error:
        raise BenchmarkError(f"Contenders such as upsert@COMMIT need Git: {error}") from error
