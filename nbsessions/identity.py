"""Who this server is, as it signs what it writes."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import hmac
import os
import re
import socket
import subprocess
import sys
import uuid
from pathlib import Path

from nbsessions.models import Owner

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE = Path("/proc/self/ns/pid")
_MACHINE_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_IOREG = ("ioreg", "-rd1", "-c", "IOPlatformExpertDevice")


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
def machine_key() -> str:
    """Return what tells this machine from others, whatever it is called by now: 12 hex digits.

    It is made of the id that the system gave the machine when it was installed (machine-id(5);
    IOPlatformUUID on macOS; MachineGuid on Windows), which is not meant to be shown: nobody can
    find the id by it. Without such an id it is made of the host's name.
    """
    known = _machine_id() or socket.gethostname()
    return hmac.new(known.encode(), b"nbsessions", hashlib.sha256).hexdigest()[:12]


def _machine_id() -> str:
    """Return the system's own id of this machine; empty where it has none."""
    if sys.platform == "darwin":
        found = re.search(r'"IOPlatformUUID" = "([^"]+)"', _output_of(*_IOREG))
        return found[1] if found else ""
    if sys.platform == "win32":
        import winreg

        with (
            contextlib.suppress(OSError),
            winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SOFTWARE\Microsoft\Cryptography") as key,
        ):
            return str(winreg.QueryValueEx(key, "MachineGuid")[0])
        return ""
    for path in _MACHINE_IDS:
        with contextlib.suppress(OSError, ValueError):
            found = re.fullmatch(r"[0-9a-f]{32}", path.read_text().strip())
            if found:
                return found[0]
    return ""


@functools.cache
def _boot_session() -> str:
    """Return what macOS calls its current boot."""
    return _output_of("sysctl", "-n", "kern.bootsessionuuid").strip()


def _output_of(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout
    except OSError:
        return ""
