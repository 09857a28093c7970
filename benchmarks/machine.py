"""Describes the machine and the versions that are measured."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import nbsessions


def describe(folder: Path) -> dict[str, str]:
    """Describe the machine, the versions in use and the file system of the folder."""
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "system": f"{platform.system()} {platform.release()}",
        "file system": _file_system(folder),
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
        "jupyter_server": version("jupyter_server"),
        "tornado": version("tornado"),
        "nbsessions": f"{nbsessions.__version__}{_commit()}",
    }


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """Return the commit of the source tree that nbsessions is imported from, if it is one."""
    # Without locks, git writes nothing.
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty"]
    folder = Path(nbsessions.__file__).parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except OSError:
        return ""
    return f" ({done.stdout.strip()})" if done.returncode == 0 else ""


def _file_system(folder: Path) -> str:
    if sys.platform != "linux":
        return "unknown"
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    folder = folder.resolve()
    matching = [mount for mount in mounts if folder.is_relative_to(mount[1])]
    # Of equally long mount points, the last one hides the others.
    return max(reversed(matching), key=lambda mount: len(mount[1]))[2]
