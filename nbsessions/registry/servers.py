"""The servers that own kernels in the runtime directory.

Each server has a lock file. The lock shows whether the server is alive.
"""

from __future__ import annotations

import contextlib
import enum
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from nbsessions.locks import SUPPORTED, FileLock
from nbsessions.private import PrivateFolder

_CLAIM_TIMEOUT = 1.0
_CLAIM_INTERVAL = 0.001
_REGISTER_TIMEOUT = 5.0


class State(str, enum.Enum):
    """Whether a server is alive. Other servers can take over the kernels of dead servers only."""

    LIVE = "live"
    DEAD = "dead"
    SILENT = "silent"
    """Unknown. The server is on another host, belongs to another user, or has no lock file, or
    locks do not work."""


class Servers:
    """The servers that share a runtime directory. All methods block for a short time.

    Each server holds its lock until its process ends for any reason. A server that acquires the
    lock of a dead server may take over its kernels while it holds the lock.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = PrivateFolder(folder.parent).folder(folder.name)
        self.server_id = str(uuid.uuid4())
        """The id of this server, which is not listed before ``register`` is called."""
        self._lock: FileLock | None = None

    def register(self) -> None:
        """Register this server as alive. Idempotent. Raises OSError."""
        self._folder.make()
        if self._lock is not None and not self._lock.is_current():
            self._lock.close()
            self._lock = None
        deadline = time.monotonic() + _REGISTER_TIMEOUT
        while self._lock is None:
            lock = self._open_lock(self.server_id, os.O_RDWR | os.O_CREAT)
            try:
                # Before we hold the lock, another server may consider this one dead. It may then
                # lock the file and even remove it. In that case, try again with a new file.
                if lock.acquire(timeout=_REGISTER_TIMEOUT) and lock.is_current():
                    self._lock = lock
            except OSError:
                # Without locks, no other server could find out that this one has ended.
                self.forget(self.server_id)
                raise
            finally:
                if self._lock is None:
                    lock.close()
            if self._lock is None and time.monotonic() > deadline:
                raise TimeoutError(f"the lock file {lock.path} cannot be locked")

    def is_registered(self) -> bool:
        """Return whether this server is registered and its lock file still exists."""
        return self._lock is not None and self._lock.is_current()

    def unregister(self, *, kernels_left: bool) -> None:
        """Release the lock. If no kernels are left running, remove this server's files too."""
        if not kernels_left:
            self.forget(self.server_id)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def touch(self) -> None:
        """Record the current time as the last time when this server was known to be alive."""
        with contextlib.suppress(OSError):
            self._folder.touch(_lock_name(self.server_id))

    def silent_for(self, server_id: str) -> float:
        """Return the seconds since the server was last known to be alive."""
        try:
            last = self._folder.status(_lock_name(server_id)).st_mtime
        except OSError:
            return 0.0
        return max(0.0, time.time() - last)

    def last_sign(self, server_id: str) -> tuple[int, int] | None:
        """Return a value that changes with each sign of life of the server. None if it has none.

        It stays the same once the server is dead.
        """
        try:
            status = self._folder.status(_lock_name(server_id))
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def state(self, server_id: str) -> State:
        """Return whether the server is alive, dead or in an unknown state."""
        if self._lock is not None and server_id == self.server_id:
            return State.LIVE
        try:
            lock = self._open_lock(server_id)
        except OSError:
            return State.SILENT
        try:
            # A shared lock, so that two concurrent checks do not take each other for the server.
            return State.DEAD if SUPPORTED and lock.acquire(shared=True) else State.LIVE
        except OSError:
            return State.SILENT
        finally:
            lock.close()

    def holds_lock(self, server_id: str) -> bool:
        """Return whether the server runs. Faster than ``state``, but False says nothing."""
        path = self._folder.path / _lock_name(server_id)
        try:
            # The folder is not checked. If somebody has exchanged it, nothing is taken over.
            with contextlib.closing(FileLock(path, os.O_RDWR)) as lock:
                return not lock.acquire(shared=True)
        except OSError:
            return False

    @contextlib.contextmanager
    def claim(self, server_id: str) -> Iterator[bool]:
        """Hold the lock of a dead server in the body of a ``with`` statement.

        Yields False if the lock is not available, under the conditions of ``take_over``.
        """
        lock = self.take_over(server_id)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                lock.close()

    def take_over(self, server_id: str) -> FileLock | None:
        """Return a dead server's lock, or None if it is not available. The caller closes it.

        It is not available if the server is not dead, if another server holds the lock, if the
        lock file belongs to another user, or if locks do not work.
        """
        try:
            lock = self._open_lock(server_id)
        except OSError:
            return None
        taken = False
        try:
            taken = SUPPORTED and _acquire_from_dead(lock) and lock.is_current()
        except OSError:
            pass
        finally:
            if not taken:
                lock.close()
        return lock if taken else None

    def list_ids(self) -> list[str]:
        """Return the ids of all servers, including dead ones. Raises OSError."""
        names = self._folder.list_names()
        return [name.removesuffix(".lock") for name in names if name.endswith(".lock")]

    def last_change(self) -> tuple[int, int] | None:
        """Return a value that changes with the files in the folder. None if there is no folder.

        Changes of the same moment may give the same value. This is one system call.
        """
        try:
            status = os.stat(self._folder.path)
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def forget(self, server_id: str) -> None:
        """Remove the files of a server that has no kernels left."""
        for name in (_lock_name(server_id), _ending_name(server_id)):
            with contextlib.suppress(OSError):
                self._folder.remove(name)

    # Deliberate stops, which end the kernels

    def mark_ending(self) -> None:
        """Record that this server is ending its kernels. Call this before the first one ends."""
        if self._lock is not None:
            with contextlib.suppress(OSError):
                os.close(self._folder.open(_ending_name(self.server_id), os.O_WRONLY | os.O_CREAT))

    def was_ending(self, server_id: str) -> bool:
        """Return whether the server was ending its kernels when it died."""
        try:
            self._folder.status(_ending_name(server_id))
        except OSError:
            return False
        return True

    def _open_lock(self, server_id: str, flags: int = os.O_RDWR) -> FileLock:
        path = self._folder.path / _lock_name(server_id)
        return FileLock(path, flags, folder=self._folder)


def _lock_name(server_id: str) -> str:
    return f"{server_id}.lock"


def _ending_name(server_id: str) -> str:
    return f"{server_id}.ending"


def _acquire_from_dead(lock: FileLock) -> bool:
    """Acquire the lock of a dead server. Wait only for other processes that check its state."""
    deadline = time.monotonic() + _CLAIM_TIMEOUT
    while not lock.acquire():
        # A process that checks the state holds a shared lock for a moment. A live server, or one
        # that takes over kernels, holds an exclusive lock.
        if not lock.acquire(shared=True) or time.monotonic() > deadline:
            return False
        lock.release()
        time.sleep(_CLAIM_INTERVAL)
    return True
