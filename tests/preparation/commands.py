"""Folders, and commands that are run in them."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".venv"
WINDOWS = sys.platform == "win32"
_LEFT_OUT = (
    "PYTHONPATH",
    "PYTHONHOME",
    "VIRTUAL_ENV",
    "__PYVENV_LAUNCHER__",
    # With it, every process of pytest would compile all tests again.
    "PYTHONDONTWRITEBYTECODE",
)


class StepFailed(Exception):
    """A step failed. The message says why, unless the output already does."""


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@functools.cache
def clean_environment() -> dict[str, str]:
    """Return the environment without variables that make Python find other packages, or slow."""
    return {
        **{name: value for name, value in os.environ.items() if name not in _LEFT_OUT},
        "PYTHONNOUSERSITE": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def program(environment: str, name: str) -> str:
    """Return the path of a program in one of the environments."""
    folder, suffix = ("Scripts", ".exe") if WINDOWS else ("bin", "")
    return str(HOME / environment / folder / f"{name}{suffix}")


def digest(files: Sequence[Path], *more: str) -> str:
    """Return a hash of the names and contents of the files, and of the strings in ``more``."""
    found = hashlib.sha256(repr(more).encode())
    for file in files:
        found.update(f"{file.relative_to(ROOT)}\0".encode())
        found.update(file.read_bytes())
    return found.hexdigest()[:16]


def pip(environment: str, *arguments: str) -> None:
    """Run pip in one of the environments."""
    run_quietly(environment, [program(environment, "python"), "-m", "pip", *arguments])


def run_quietly(name: str, command: Sequence[str], folder: Path = ROOT) -> None:
    """Run a setup command. Its output is shown only if it fails."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        raise StepFailed(f"{done.stdout}\nin the environment {name!r}: {' '.join(command)}")
