"""Who this server is, as it signs what it writes."""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
import uuid
from pathlib import Path

from nbsessions.models import Owner

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE = Path("/proc/self/ns/pid")


def new_owner() -> Owner:
    """Return an owner for this run of this server, with an id of its own."""
    return Owner(
        owner_id=str(uuid.uuid4()), host=socket.gethostname(), boot_id=boot_id(), pid=os.getpid()
    )


def boot_id() -> str:
    """Return what identifies the host's current boot; empty where the platform does not tell."""
    if sys.platform == "darwin":
        return _boot_session()
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def pid_namespace() -> str:
    """Return what identifies our pid namespace; empty where the platform has none."""
    try:
        return os.readlink(_PID_NAMESPACE)
    except OSError:
        return ""


@functools.cache
def _boot_session() -> str:
    """Return what macOS calls its current boot."""
    command = ["sysctl", "-n", "kern.bootsessionuuid"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
