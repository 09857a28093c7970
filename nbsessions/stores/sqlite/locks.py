"""The lock files beside the store: who has it open, who writes, and which owners live."""

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

    ``<file>.lock`` is held shared for as long as the file is open, so that nobody moves a
    damaged file away under a live server. ``<file>.write`` is held for each commit and each
    checkpoint. Whoever holds ``<file>.turn`` is the next to get it: who has just written cannot
    go first again and again. ``<file>.owner-<id>`` is held for the life of an owner: as long as
    it is, nobody takes the owner for dead.

    Lock files are removed and replaced by people and their tools, often together with the
    store. A lock on a file that is not there any more is none: it is taken again.
    """

    def __init__(self, path: Path, *, timeout: float) -> None:
        """``timeout``: seconds that each lock is waited for."""
        self._path = path
        self._timeout = timeout
        self._presence: FileLock | None = None
        self._turn: FileLock | None = None
        self._write: FileLock | None = None
        self._owner: FileLock | None = None
        self._owner_id: str | None = None

    # Life

    def take_part(self) -> None:
        """Hold what shows that this server has the store open; again what was replaced.

        Raises OSError, and StoreUnavailable while the store is being repaired.
        """
        self._presence = self._renewed(self._presence, ".lock", self._join)
        self._turn = self._renewed(self._turn, ".turn")
        self._write = self._renewed(self._write, ".write")
        if self._owner_id is not None:
            self.own(self._owner_id)

    def own(self, owner_id: str) -> None:
        """Hold the lock that shows that the owner lives. Raises OSError, StoreUnavailable."""
        self._owner_id = owner_id
        path = lock_path(self._path, owner_id)
        if self._owner is not None and not self._owner.is_current():
            self._owner.close()
            self._owner = None
        deadline = time.monotonic() + self._timeout
        while self._owner is None:
            lock = FileLock(path)
            # Those who look whether the owner lives share the lock for a moment.
            try:
                if lock.acquire(timeout=self._timeout) and lock.is_current():
                    self._owner = lock
            finally:
                if self._owner is None:
                    lock.close()
            if self._owner is None and time.monotonic() > deadline:
                raise StoreUnavailable(f"the lock file {path} cannot be locked")

    def are_current(self) -> bool:
        """Return whether all locks are on the files that others look at."""
        locks = [self._presence, self._turn, self._write]
        if self._owner_id is not None:
            locks.append(self._owner)
        return all(lock is not None and lock.is_current() for lock in locks)

    def close(self, *, remove_owner: bool = True) -> None:
        """Let go of all locks, the owner's last. Idempotent.

        ``remove_owner``: remove the owner's file, too. Without it, an owner whose end the
        store does not know of can be proven dead.
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

    # Use

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Run the body while no other server commits or makes a checkpoint.

        Raises StoreUnavailable when others do for too long, OSError.
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
    def nobody_else(self, problem: object) -> Iterator[None]:
        """Run the body while no other server has the file open.

        Raises StoreDamaged, about the problem, when one has.
        """
        assert self._presence is not None
        try:
            if not self._presence.acquire():
                raise StoreDamaged(
                    f"the session store {self._path} is damaged ({problem}) and another server "
                    "has it open: stop all servers that use it and start one again, which "
                    "repairs it"
                )
            yield
        finally:
            self._presence.acquire(shared=True, timeout=self._timeout)

    # Pieces

    def _join(self, lock: FileLock) -> None:
        if not lock.acquire(shared=True, timeout=self._timeout):
            raise StoreUnavailable(f"the session store {self._path} is being repaired")

    def _renewed(
        self,
        lock: FileLock | None,
        suffix: str,
        prepare: Callable[[FileLock], None] = lambda lock: None,
    ) -> FileLock:
        """Return the lock, or a new one when it is on a file that is not there any more."""
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
