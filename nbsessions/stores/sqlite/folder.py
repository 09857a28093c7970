"""Prepares the folder of a store, and checks that only this user can have changed its files."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from nbsessions.private import (
    NO_LINK,
    SUPPORTED,
    Untrusted,
    check_file,
    follow_own_link,
    is_open_to_all,
    is_ours,
)
from nbsessions.stores.sqlite.repair import COMPLETE, beside

_READ_BY_SQLITE = ("", "-wal", "-shm", "-journal")


class StoreFolder:
    """The folder of one store file.

    SQLite opens the files by their paths, so that they cannot be checked on descriptors. The
    folder must therefore be one in which other users cannot create files.
    """

    def __init__(self, path: Path, *, private: bool) -> None:
        """``path`` is the store file as it was configured, which may be a symbolic link.

        ``private`` means that only nbsessions uses the folder. The folder is then created if
        needed, and its mode is set to 0700.
        """
        folder = follow_own_link(path.parent)
        is_foreign = private and os.path.islink(folder)
        self.path = folder / path.name if is_foreign else follow_own_link(folder / path.name)
        """The file itself."""
        self._private = private

    def prepare(self) -> None:
        """Create a private folder, and check it and the files that exist. Blocks.

        Raises what ``check`` raises.
        """
        if self._private:
            self._make_private()
        self.check()

    def check(self) -> None:
        """Raise Untrusted if another user may have made or changed the folder or a file in it.

        Blocks. Raises OSError.
        """
        folder = self.path.parent
        status = folder.stat()
        if is_open_to_all(status, folder):
            raise Untrusted(f"everybody can create files in {folder}")
        for suffix in (*_READ_BY_SQLITE, COMPLETE):
            file = beside(self.path, suffix)
            # Do not open these files. Closing them would release SQLite's locks on them.
            with contextlib.suppress(FileNotFoundError):
                check_file(file, file.lstat(), alone=bool(status.st_mode & stat.S_IWGRP))

    def _make_private(self) -> None:
        folder = self.path.parent
        if os.path.islink(folder):
            raise Untrusted(f"{folder} is a symbolic link of another user")
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
