"""Converts errors of SQLite and of the file system to StoreErrors."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from nbsessions.errors import (
    StoreDamaged,
    StoreError,
    StoreUnavailable,
    StoreUnsupported,
    StoreUnusable,
)
from nbsessions.locks import LocksUnsupported
from nbsessions.private import Untrusted
from nbsessions.stores.sqlite.repair import beside

_DAMAGE_MESSAGES = ("malformed", "not a database")
_IN_THE_WAY = (FileExistsError, NotADirectoryError, IsADirectoryError)


def store_error(error: sqlite3.Error | OSError, path: Path) -> StoreError:
    """Return the StoreError for an error. Only a malformed file is a StoreDamaged."""
    text = f"the session store {path} cannot be used: {error}"
    if is_damage(error):
        return StoreDamaged(text)
    if isinstance(error, LocksUnsupported):
        return StoreUnsupported(
            f"{text}. Its file system has no file locks. Set "
            "c.AsyncSessionManager.database_filepath to a file on a local file system"
        )
    if isinstance(error, _IN_THE_WAY):
        return StoreUnusable(text)
    if isinstance(error, Untrusted):
        return StoreUnusable(
            f"{text}. Set c.AsyncSessionManager.database_filepath to a file in a folder that only "
            "you can write to (chmod go-w). If you created the file with sudo, make yourself its "
            "owner (chown)"
        )
    if isinstance(error, PermissionError) or _is_forbidden(path):
        return StoreUnusable(
            f"{text}. If you created it, for example with sudo, make yourself the owner of "
            f"{path.parent} and its files (chown -R). Otherwise, set "
            "c.AsyncSessionManager.database_filepath to a file in a folder of your own"
        )
    return StoreUnavailable(text)


def is_damage(error: BaseException) -> bool:
    """Return whether SQLite reports a damaged file (CORRUPT or NOTADB)."""
    # Python 3.10 has no sqlite_errorcode. SQLite's messages for these two codes are stable.
    return isinstance(error, sqlite3.DatabaseError) and any(
        message in str(error) for message in _DAMAGE_MESSAGES
    )


def _is_forbidden(path: Path) -> bool:
    """Return whether this user may not write the file, its folder, or its log or journal."""
    files = [path, *(beside(path, suffix) for suffix in ("-wal", "-shm", "-journal"))]
    there = [each for each in (path.parent, *files) if os.path.lexists(each)]
    return any(not os.access(each, os.R_OK | os.W_OK) for each in there)
