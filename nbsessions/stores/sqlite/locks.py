"""The lock files of a store. They show who has it open, who writes, and which owners live."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nbsessions.errors import StoreDamaged, StoreUnavailable
from nbsessions.locks import FileLock
from nbsessions.stores.sqlite.owners import lock_path
from nbsessions.stores.sqlite.repair import beside


class StoreLocks:
    """The locks of one server. All methods block; call them off the event loop.

    - ``<file>.lock`` is held shared while the file is open, so that no other server moves a
      damaged file away while this one uses it.
    - ``<file>.write`` is held during each commit and each checkpoint.
    - ``<file>.turn`` is held while waiting for ``<file>.write``. Servers thus take turns, and one
      that writes without a pause does not keep others from writing.
    - ``<file>.owner-<id>`` is held while the owner runs. An owner whose lock is held is alive.

    Users and their tools may remove or replace lock files, often together with the store. A lock
    on a file that was removed has no effect on other servers, so it is acquired again.
    """

    def __init__(self, path: Path, *, timeout: float) -> None:
        """``timeout``: the number of seconds to wait for a lock."""
        self._path = path
        self._timeout = timeout
        self._presence: FileLock | None = None
        self._turn: FileLock | None = None
        self._write: FileLock | None = None
        self._owner: FileLock | None = None
        self._owner_id: str | None = None

    # Opening and closing

    def open(self) -> None:
        """Open the lock files, and acquire the lock that shows that the store is open.

        May be called again to renew locks whose files were replaced. Raises OSError, and
        StoreUnavailable while the store is being repaired.
        """
        self._presence = self._renewed(self._presence, ".lock", self._join)
        self._turn = self._renewed(self._turn, ".turn")
        self._write = self._renewed(self._write, ".write")
        if self._owner_id is not None:
            self.lock_owner(self._owner_id)

    def lock_owner(self, owner_id: str) -> None:
        """Acquire the lock of the owner. Raises OSError and StoreUnavailable."""
        self._owner_id = owner_id
        path = lock_path(self._path, owner_id)
        if self._owner is not None and not self._owner.is_current():
            self._owner.close()
            self._owner = None
        deadline = time.monotonic() + self._timeout
        while self._owner is None:
            lock = FileLock(path)
            # A server that checks whether the owner is alive holds the lock for a moment.
            try:
                if lock.acquire(timeout=self._timeout) and lock.is_current():
                    self._owner = lock
            finally:
                if self._owner is None:
                    lock.close()
            if self._owner is None and time.monotonic() > deadline:
                raise StoreUnavailable(f"the lock file {path} cannot be locked")

    def are_current(self) -> bool:
        """Return whether all lock files are still at their paths."""
        locks = [self._presence, self._turn, self._write]
        if self._owner_id is not None:
            locks.append(self._owner)
        return all(lock is not None and lock.is_current() for lock in locks)

    def close(self, *, remove_owner: bool = True) -> None:
        """Release all locks, the owner's lock last. Idempotent.

        ``remove_owner``: also remove the owner's lock file. Keep the file if the store has no
        record that the owner stopped. A lock file that is not locked proves that it did.
        """
        locks = (self._write, self._turn, self._presence)
        self._write = self._turn = self._presence = None
        for lock in filter(None, locks):
            lock.close()
        owner, self._owner, self._owner_id = self._owner, None, None
        if owner is not None:
            if remove_owner and owner.is_current():
                with contextlib.suppress(OSError):
                    owner.path.unlink()
            owner.close()

    # Writing and repairing

    @contextlib.contextmanager
    def for_writing(self) -> Iterator[None]:
        """Run the body while no other server commits or runs a checkpoint.

        Raises OSError, and StoreUnavailable when the lock cannot be acquired in time.
        """
        deadline = time.monotonic() + self._timeout
        lock = self._write_lock(deadline)
        try:
            yield
        finally:
            lock.release()

    def _write_lock(self, deadline: float) -> FileLock:
        while True:
            self._turn = self._renewed(self._turn, ".turn")
            self._write = self._renewed(self._write, ".write")
            if not self._turn.acquire(timeout=_left(deadline)):
                break
            try:
                acquired = self._write.acquire(timeout=_left(deadline))
            finally:
                self._turn.release()
            if not acquired:
                break
            if self._write.is_current():
                return self._write
            self._write.release()
        raise StoreUnavailable(f"the session store {self._path} is locked by another process")

    @contextlib.contextmanager
    def exclusively(self, problem: object) -> Iterator[None]:
        """Run the body while no other server has the file open.

        Raises StoreDamaged with the problem if another server has it open.
        """
        assert self._presence is not None
        try:
            if not self._presence.acquire():
                raise StoreDamaged(
                    f"the session store {self._path} is damaged ({problem}), and another server "
                    "has it open. Stop all servers that use it and start one of them again, which "
                    "repairs the file"
                )
            yield
        finally:
            self._presence.acquire(shared=True, timeout=self._timeout)

    # Steps

    def _join(self, lock: FileLock) -> None:
        if not lock.acquire(shared=True, timeout=self._timeout):
            raise StoreUnavailable(f"the session store {self._path} is being repaired")

    def _renewed(
        self,
        lock: FileLock | None,
        suffix: str,
        prepare: Callable[[FileLock], None] = lambda lock: None,
    ) -> FileLock:
        """Return the lock, or a new one if its file was removed or replaced."""
        if lock is not None:
            if lock.is_current():
                return lock
            lock.close()
        lock = FileLock(beside(self._path, suffix))
        try:
            prepare(lock)
        except BaseException:
            lock.close()
            raise
        return lock


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
