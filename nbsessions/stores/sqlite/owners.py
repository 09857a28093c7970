"""Decides which owners are dead."""

from __future__ import annotations

import contextlib
import glob
import os
import sqlite3
import time
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

from nbsessions.locks import SUPPORTED, FileLock
from nbsessions.models import ABANDONED_AFTER, Owner, utcnow
from nbsessions.stores.base import SILENT_KEPT_FOR
from nbsessions.stores.sql.serving import Sharer
from nbsessions.stores.sqlite.rows import RowReader


def lock_path(database: Path, owner_id: str) -> Path:
    """Return the path of the file that the owner keeps locked while it runs."""
    return database.with_name(f"{database.name}.owner-{owner_id}")


def remove_locks(database: Path, owner_ids: Iterable[str]) -> None:
    """Remove the lock files of owners whose rows were removed."""
    for owner_id in owner_ids:
        with contextlib.suppress(OSError):
            lock_path(database, owner_id).unlink()


def is_dead(row: sqlite3.Row, observer: Owner, database: Path, rows: RowReader) -> bool:
    """Return whether the owner of this row is certainly dead, or was silent for a day."""
    if row["stopped"] is not None:
        return True
    same_boot = bool(observer.boot_id) and row["boot"] == observer.boot_id
    # The host may have a new name, and two hosts may have the same name.
    is_here = same_boot or row["host"] == observer.host
    is_free = _lock_is_free(lock_path(database, row["owner"])) if is_here else None
    if is_free is not None:
        return is_free
    if is_here and not same_boot and row["boot"] and observer.boot_id:
        return True
    return _silent_for(row, rows) > SILENT_KEPT_FOR


def holds_lock(database: Path, owner_id: str) -> bool:
    """Return whether the owner certainly runs, because it holds its lock."""
    return _lock_is_free(lock_path(database, owner_id)) is False


def is_abandoned(row: sqlite3.Row, database: Path, rows: RowReader) -> bool:
    """Return whether the owner has been silent for so long that its rows can be removed."""
    if _silent_for(row, rows) <= ABANDONED_AFTER:
        return False
    return _lock_is_free(lock_path(database, row["owner"])) is not False


def sharer(row: sqlite3.Row, observer: Owner, database: Path, rows: RowReader) -> Sharer:
    """Return what a row with the columns of SELECT_SHARERS tells."""
    seen = rows.seen(row)
    return Sharer(
        serves=bool(row["serves"]),
        is_dead=is_dead(row, observer, database, rows),
        unseen_for=None if seen is None else utcnow() - seen,
    )


def _silent_for(row: sqlite3.Row, rows: RowReader) -> timedelta:
    heartbeat = rows.heartbeat(row)
    # An unreadable heartbeat proves nothing.
    return timedelta(0) if heartbeat is None else utcnow() - heartbeat


def remove_abandoned_locks(database: Path) -> None:
    """Remove the lock files of owners that have been silent for a long time."""
    pattern = f"{glob.escape(lock_path(database, '').name)}*"
    paths: list[Path] = []
    with contextlib.suppress(OSError):
        paths = list(database.parent.glob(pattern))
    for path in paths:
        with contextlib.suppress(OSError):
            age = time.time() - path.stat().st_mtime
            if age > ABANDONED_AFTER.total_seconds() and _lock_is_free(path):
                path.unlink()


def _lock_is_free(path: Path) -> bool | None:
    """Return whether no process holds the lock, or None if that cannot be determined."""
    if not SUPPORTED:
        return None
    try:
        lock = FileLock(path, flags=os.O_RDWR)
    except OSError:
        return None
    try:
        # Use a shared lock, so that two servers that check at once do not see each other's lock.
        if not lock.acquire(shared=True):
            return False
        return True if lock.is_current() else None
    except OSError:
        return None
    finally:
        lock.close()
