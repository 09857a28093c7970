"""Starts a keeper."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from nbsessions.registry.process import KERNEL_ID_VARIABLE

_TIMEOUT = 20.0
_LITTLE_MEMORY = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "65536"}
"""Lets glibc return the memory of large messages, which one thread allocates and another frees."""


class KeeperFailed(OSError):
    """A keeper could not be started."""


def start_keeper(registry: Path) -> None:
    """Start a keeper, unless one runs, and wait until it can be reached. Raises KeeperFailed.

    A keeper of an earlier version is replaced.
    """
    # A server that was started in the terminal of a kernel has its mark.
    env = {name: value for name, value in os.environ.items() if name != KERNEL_ID_VARIABLE}
    env = {**_LITTLE_MEMORY, **env}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "nbsessions.keeper", str(registry.absolute())],
            # Python would import what it finds in the current folder, as the user's notebooks do.
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=env,
            timeout=_TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KeeperFailed(f"the keeper could not be started: {error}") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise KeeperFailed(f"the keeper could not be started: {lines[-1]}")
