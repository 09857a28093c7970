"""What builds and installs the package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from support.environments import REPOSITORY

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def run(*command: str | Path, cwd: Path) -> None:
    """Run a command, which has to succeed."""
    # No coverage is measured: what runs the package here is tested elsewhere, in less time.
    left_out = ("PYTEST", "COVERAGE_")
    environment = {k: value for k, value in os.environ.items() if not k.startswith(left_out)}
    ran = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout


def files_of_the_project() -> list[str]:
    """Return the paths of all files that belong to the project, within its folder."""
    if (REPOSITORY / ".git").exists():
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.check_output(command, cwd=REPOSITORY, text=True)
    else:
        listed = (REPOSITORY / "nbsessions.egg-info" / "SOURCES.txt").read_text()
    # Git lists a file that was removed until that is committed.
    return [name for name in listed.splitlines() if (REPOSITORY / name).exists()]


def copy_project(folder: Path) -> None:
    """Copy all files of the project to a new folder. Builds write into the folder they run in."""
    for name in files_of_the_project():
        copy = folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, copy)
