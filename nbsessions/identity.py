"""Who this server is, as it signs what it writes."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path

from nbsessions.models import Owner

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def new_owner() -> Owner:
    """Return an owner for this run of this server, with an id of its own."""
    return Owner(
        owner_id=str(uuid.uuid4()), host=socket.gethostname(), boot_id=boot_id(), pid=os.getpid()
    )


def boot_id() -> str:
    """Return what identifies the host's current boot; empty where the platform does not tell."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
