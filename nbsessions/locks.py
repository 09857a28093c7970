"""Advisory file locks (flock), which the system releases when a process ends in any way."""

from __future__ import annotations

import errno
import os
import sys
import time
import weakref
from pathlib import Path

from nbsessions.private import PrivateFolder, open_file

if sys.platform != "win32":
    import fcntl

SUPPORTED = sys.platform != "win32"
"""Whether the platform has these locks. Without them, no lock can prove that a process is dead."""

_POLL_INTERVAL = 0.01
_MAY_PASS = (errno.EIO, errno.ENOMEM, errno.ESTALE)
"""Errors that say nothing about whether the file system has locks."""


class LocksUnsupported(OSError):
    """The file system has no file locks."""


class FileLock:
    """One open lock file. It is closed in forked children, which would keep the lock otherwise."""

    def __init__(
        self,
        path: Path,
        flags: int = os.O_RDWR | os.O_CREAT,
        *,
        folder: PrivateFolder | None = None,
    ) -> None:
        """Open the lock file (mode 0600) without taking the lock.

        ``folder`` is the file's folder if that must be private. Raises OSError, also if the file
        belongs to another user.
        """
        self.path = path
        self._folder = folder
        self._descriptor: int | None = (
            open_file(path, flags) if folder is None else folder.open(path.name, flags)
        )
        _open_locks.add(self)

    def acquire(self, *, shared: bool = False, timeout: float = 0.0) -> bool:
        """Take or convert the lock. Return False if others held it for ``timeout`` seconds.

        Blocks the thread. When a conversion fails, the lock that was held before is lost. Raises
        LocksUnsupported and OSError.
        """
        if not SUPPORTED or self._descriptor is None:
            return not SUPPORTED
        operation = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(self._descriptor, operation)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(_POLL_INTERVAL)
            except OSError as error:
                if error.errno in _MAY_PASS:
                    error.filename = str(self.path)
                    raise
                raise LocksUnsupported(error.errno, error.strerror, str(self.path)) from error
            else:
                return True

    def release(self) -> None:
        """Release the lock, but keep the file open."""
        if SUPPORTED and self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def is_current(self) -> bool:
        """Return whether the path still refers to the open file."""
        if self._descriptor is None:
            return False
        try:
            folder = self._folder
            current = folder.status(self.path.name) if folder else os.lstat(self.path)
            return os.path.samestat(os.fstat(self._descriptor), current)
        except OSError:
            return False

    def close(self) -> None:
        """Close the file, which releases the lock. Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        _open_locks.discard(self)
        if descriptor is not None:
            os.close(descriptor)


_open_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _close_in_child() -> None:
    for lock in list(_open_locks):
        lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
