"""The programs that tests run on Linux."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from preparation.commands import StepFailed, clean_environment, say

PROGRAMS = ("strace", "chromium", "openssl", "gcc")
"""Their Debian packages have the same names."""


def ensure_programs() -> None:
    """On Linux, install the programs that the tests run."""
    if not sys.platform.startswith("linux"):
        return
    missing = missing_programs()
    if not missing:
        return
    names = " ".join(missing)
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise StepFailed(f"{names} missing; on Debian and Ubuntu: apt-get install {names}")
    say(f"- installing {names}")
    environment = {**clean_environment(), "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], ["apt-get", "install", "--yes", *missing]):
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
    missing = missing_programs()
    if missing:
        raise StepFailed(f"apt-get could not install {' '.join(missing)}")


def missing_programs() -> list[str]:
    """Return the programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]
