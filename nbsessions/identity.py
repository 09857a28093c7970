"""Identifies this server, its host and its boot in the records that it writes."""

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
    """Return an owner for this run of the server, with a new id."""
    pid = os.getpid()
    return Owner(
        owner_id=str(uuid.uuid4()),
        host=socket.gethostname(),
        boot_id=boot_id(),
        pid=pid,
        process=process_key(pid),
    )


def boot_id() -> str:
    """Return the id of the host's current boot, or "" if the platform has none."""
    if sys.platform == "darwin":
        return _boot_session()
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def pid_namespace() -> str:
    """Return the id of this process's PID namespace, or "" if the platform has none."""
    try:
        return os.readlink(_PID_NAMESPACE)
    except OSError:
        return ""


def process_started(pid: int) -> float:
    """Return the start time of a process. Raises ProcessLookupError if there is none.

    These are clock ticks since the boot if /proc has them, and else seconds since the epoch.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(_stat(pid)[19])
    import psutil  # imported late, because it takes time and is seldom needed

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error as error:
        raise ProcessLookupError(f"no process {pid}") from error


def _stat(pid: int) -> list[bytes]:
    """Return the fields of /proc/PID/stat after the second one, see proc(5)."""
    # Split after the command name, which may contain spaces and parentheses.
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()


def _is_zombie(pid: int) -> bool:
    """Return whether the process has ended, but its parent has not noticed."""
    try:
        return _stat(pid)[0] in (b"Z", b"X")
    except (OSError, IndexError):
        return False


def process_key(pid: int) -> str:
    """Return a text that identifies a running process among all of this boot."""
    return f"{pid_namespace()} {pid} {process_started(pid)}"


def pid_of(key: str) -> int:
    """Return the process id in a key that ``process_key`` has made, or 0 in another text."""
    pid = key.partition(" ")[2].partition(" ")[0]
    return int(pid) if pid.isdecimal() and len(pid) < 20 else 0


def has_ended(key: str) -> bool | None:
    """Return whether the process of this boot has ended, or None if it cannot be seen here."""
    namespace, _, process = key.partition(" ")
    if not namespace or namespace != pid_namespace():
        return None
    pid, _, started = process.partition(" ")
    try:
        return str(process_started(int(pid))) != started or _is_zombie(int(pid))
    except ValueError:
        return None
    except ProcessLookupError:
        return True


@functools.cache
def machine_key() -> str:
    """Return 12 hex digits that identify this machine, even if its host name changes.

    The key is a hash of the id that the operating system gave the machine (machine-id(5),
    IOPlatformUUID on macOS, MachineGuid on Windows). That id should not be published, and cannot
    be computed from the key. On a machine without an id, the key is a hash of the host name.
    """
    known = _machine_id() or socket.gethostname()
    return hmac.new(known.encode(), b"nbsessions", hashlib.sha256).hexdigest()[:12]


def _machine_id() -> str:
    """Return the operating system's id for this machine, or "" if there is none."""
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
    """Return the id that macOS gives its current boot."""
    return _output_of("sysctl", "-n", "kern.bootsessionuuid").strip()


def _output_of(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout
    except OSError:
        return ""
