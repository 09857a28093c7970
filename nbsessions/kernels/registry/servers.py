"""Which servers have kernels here, and which of them are alive: a locked file each."""

from __future__ import annotations

import contextlib
import enum
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from nbsessions.locks import SUPPORTED, FileLock

_CLAIM_TIMEOUT = 1.0
_CLAIM_INTERVAL = 0.001
_REGISTER_TIMEOUT = 5.0


class State(str, enum.Enum):
    """What is known of a server. Only the dead can be followed by others."""

    LIVE = "live"
    DEAD = "dead"
    SILENT = "silent"
    """Cannot be known: of another host or user, without a lock file, or where locks fail."""


class Servers:
    """The servers that share a runtime directory. All methods block, briefly.

    Each holds a lock for as long as it runs, however it ends. Who gets a dead server's lock may
    take over its kernels, as long as it holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.server_id = str(uuid.uuid4())
        """Our own id; it is not among the servers before ``register``."""
        self._lock: FileLock | None = None

    def register(self) -> None:
        """Enter ourselves, alive from now on. Idempotent. Raises OSError."""
        self._folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder.mkdir(exist_ok=True, mode=0o700)
        if self._lock is not None and not self._lock.is_current():
            self._lock.close()
            self._lock = None
        deadline = time.monotonic() + _REGISTER_TIMEOUT
        while self._lock is None:
            lock = FileLock(self._file(self.server_id))
            try:
                # Somebody may claim, and even forget, a server that has its file but no lock yet.
                if lock.acquire(timeout=_REGISTER_TIMEOUT) and lock.is_current():
                    self._lock = lock
            except OSError:
                # There are no locks here: nobody could tell that the server has ended.
                self.forget(self.server_id)
                raise
            finally:
                if self._lock is None:
                    lock.close()
            if self._lock is None and time.monotonic() > deadline:
                raise TimeoutError(f"{lock.path} cannot be locked")

    def is_registered(self) -> bool:
        """Return whether we are entered, and others see it."""
        return self._lock is not None and self._lock.is_current()

    def sign_off(self, *, kernels_left: bool) -> None:
        """Let go of our lock. Without anybody to follow us, nothing is left of us."""
        if not kernels_left:
            self.forget(self.server_id)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def touch(self) -> None:
        """Note when we were last alive, for whoever finds what we leave."""
        with contextlib.suppress(OSError):
            os.utime(self._file(self.server_id))

    def silent_for(self, server_id: str) -> float:
        """Return the seconds since the server was last known to be alive."""
        try:
            return max(0.0, time.time() - self._file(server_id).stat().st_mtime)
        except OSError:
            return 0.0

    def state(self, server_id: str) -> State:
        """Return whether the server is alive."""
        if self._lock is not None and server_id == self.server_id:
            return State.LIVE
        try:
            lock = FileLock(self._file(server_id), flags=os.O_RDWR)
        except OSError:
            return State.SILENT
        try:
            if not lock.is_ours():
                return State.SILENT
            # Shared, so that two who ask at once do not take each other for the server.
            return State.DEAD if SUPPORTED and lock.acquire(shared=True) else State.LIVE
        except OSError:
            return State.SILENT
        finally:
            lock.close()

    @contextlib.contextmanager
    def claim(self, server_id: str) -> Iterator[bool]:
        """Hold a dead server's lock for the body; False when it is not dead, or claimed."""
        lock = self.take_over(server_id)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                lock.close()

    def take_over(self, server_id: str) -> FileLock | None:
        """Return a dead server's lock, which the caller closes; None when it cannot be had.

        That is when the server is not dead or somebody else has its lock, when it was another
        user's, and where there are no locks.
        """
        try:
            lock = FileLock(self._file(server_id), flags=os.O_RDWR)
        except OSError:
            return None
        taken = False
        try:
            taken = SUPPORTED and lock.is_ours() and _acquire_from_dead(lock) and lock.is_current()
        except OSError:
            pass
        finally:
            if not taken:
                lock.close()
        return lock if taken else None

    def list_ids(self) -> list[str]:
        """Return the ids of all servers, dead ones included. Raises OSError."""
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return []
        return sorted(name.removesuffix(".lock") for name in names if name.endswith(".lock"))

    def forget(self, server_id: str) -> None:
        """Remove a server of which nothing is left."""
        for path in (self._file(server_id), self._ending_file(server_id)):
            with contextlib.suppress(OSError):
                path.unlink()

    # The intention of a deliberate stop

    def note_ending(self) -> None:
        """Write down that our kernels end with us, before the first of them does."""
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._ending_file(self.server_id).touch(mode=0o600)

    def was_ending(self, server_id: str) -> bool:
        """Return whether the server was ending its kernels when it died."""
        return os.path.exists(self._ending_file(server_id))

    def _file(self, server_id: str) -> Path:
        return self._folder / f"{server_id}.lock"

    def _ending_file(self, server_id: str) -> Path:
        return self._folder / f"{server_id}.ending"


def _acquire_from_dead(lock: FileLock) -> bool:
    """Take the lock at once, or not at all, unless others just look whether the server lives."""
    deadline = time.monotonic() + _CLAIM_TIMEOUT
    while not lock.acquire():
        # Those who look share it, for a moment; the living, and those who claim, never do.
        if not lock.acquire(shared=True) or time.monotonic() > deadline:
            return False
        lock.release()
        time.sleep(_CLAIM_INTERVAL)
    return True
