"""Where a keeper has its files, and how its socket is reached."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from nbsessions.identity import boot_id, machine_key, pid_namespace
from nbsessions.private import PrivateFolder

_CREDENTIALS = struct.Struct("=iii")  # pid, user and group: see unix(7)
_LONGEST_ADDRESS = 100
"""Bytes of a path that each system accepts as the address of a Unix socket."""

_OWN_DESCRIPTORS = "/proc/self/fd"


class KeeperFolder:
    """The folder of the one keeper that a user has for a runtime directory.

    Home directories may be shared by machines and containers, but each of them sees only its own
    processes and sockets. So each has a folder of its own.
    """

    def __init__(self, registry: Path) -> None:
        """``registry``: the folder ``nbsessions`` in the runtime directory."""
        self.registry = registry
        name = f"keeper-{_place()}"
        self.folder = PrivateFolder(registry).folder(name)
        self.path = registry / name
        self.spools = self.folder.folder("spools")
        self.marks = self.folder.folder("marks")
        self.clients = self.folder.folder("clients")

    def make(self) -> None:
        """Create the folders. Raises OSError."""
        for each in (self.spools, self.marks, self.clients):
            each.make()

    @property
    def lock(self) -> Path:
        """The lock that the running keeper holds."""
        return self.path / "lock"

    def bind(self) -> socket.socket:
        """Return a socket that listens, in the place of an earlier keeper's. Raises OSError."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with self._address("socket.new") as address:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(address)
                listener.bind(address)
            listener.listen(128)
            self.folder.replace("socket.new", "socket")
        except BaseException:
            listener.close()
            raise
        return listener

    def unbind(self) -> None:
        """Remove the socket, so that nobody connects any more."""
        with contextlib.suppress(OSError):
            self.folder.remove("socket")

    def connect(self, timeout: float) -> socket.socket:
        """Return a socket that is connected to the keeper. Raises OSError if there is none."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            with self._address("socket") as address:
                connection.connect(address)
        except BaseException:
            connection.close()
            raise
        return connection

    def has_address(self) -> bool:
        """Return whether this system accepts an address of the socket."""
        return not self._is_long("socket.new") or os.path.isdir(_OWN_DESCRIPTORS)

    def _is_long(self, name: str) -> bool:
        return len(os.fsencode(self.path / name)) > _LONGEST_ADDRESS

    @contextlib.contextmanager
    def _address(self, name: str) -> Iterator[str]:
        """Yield a path of a socket in the folder that is short enough for an address."""
        with self.folder.opened() as folder:
            if self._is_long(name):
                yield f"{_OWN_DESCRIPTORS}/{folder}/{name}"
            else:
                yield str(self.path / name)


def _place() -> str:
    parts = (machine_key(), boot_id(), pid_namespace())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def peer_is_us(connection: socket.socket) -> bool:
    """Return whether the process at the other end belongs to this user."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True  # Only this user can open the folder of the socket.
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(credentials)
    return bool(user == os.geteuid())
