"""Prepares the folder of a store, and checks that its files belong to this user."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from nbsessions.private import NO_LINK, SUPPORTED, Untrusted, check_file, is_ours
from nbsessions.stores.sqlite.repair import COMPLETE, beside, real_path

_READ_BY_SQLITE = ("", "-wal", "-shm", "-journal")


class StoreFolder:
    """The folder of one store file. Others may be able to create files in it."""

    def __init__(self, path: Path, *, private: bool) -> None:
        """``path`` is the store file as it was configured, which may be a symbolic link.

        ``private`` means that only nbsessions uses the folder. The folder is then created if
        needed, and its mode is set to 0700.
        """
        self._path = real_path(path)
        self._private = private
        self._links = [path, path.parent] if private else [path]

    def prepare(self) -> None:
        """Create a private folder. Check it, and the files that exist. Blocks.

        Raises Untrusted if another user may have created the folder or one of the files, and
        OSError.
        """
        for link in self._links:
            if link.is_symlink() and not is_ours(link.lstat(), link.parent):
                raise Untrusted(f"{link} is a symbolic link of another user")
        if self._private:
            self._prepare_private()
        for suffix in (*_READ_BY_SQLITE, COMPLETE):
            file = beside(self._path, suffix)
            # Do not open these files. Closing them would release SQLite's locks on them.
            with contextlib.suppress(FileNotFoundError):
                check_file(file, file.lstat())

    def _prepare_private(self) -> None:
        folder = self._path.parent
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not SUPPORTED:
            return
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | NO_LINK)
        try:
            status = os.fstat(descriptor)
            if not is_ours(status, folder):
                raise Untrusted(f"{folder} belongs to another user")
            if status.st_mode & 0o777 != 0o700:
                # Some network file systems have fixed modes.
                with contextlib.suppress(PermissionError):
                    os.fchmod(descriptor, 0o700)
        finally:
            os.close(descriptor)
