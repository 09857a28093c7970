"""Commands that build and install the package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
