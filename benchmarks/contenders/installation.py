"""Installs contenders that are not part of the working tree."""

import subprocess
import sys

from benchmarks.contenders import commits
from benchmarks.errors import BenchmarkError

TIMEOUT_SECONDS = 120


def install(contender):
    """Install a contender into its folder, unless that has been done or there is nothing to
    install.

    Raises:
      BenchmarkError: If Git or pip fails.
    """
    if contender.folder.exists():
        return
    if contender.commit:
        commits.extract(contender.commit, contender.folder)
        return
    # Without dependencies: Django and Dramatiq come from this environment, as for all contenders.
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command += ["--target", str(contender.folder), *contender.requirements]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    if done.returncode:
        raise BenchmarkError(
            f"The contender {contender.name} could not be installed. Leave it out with "
            f"--contenders, or fix what pip reports: {done.stderr.strip()}"
        )
