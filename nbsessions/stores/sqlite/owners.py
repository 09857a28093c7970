"""Tells a dead owner from one that is live or silent."""

from __future__ import annotations

import os
import sqlite3
from datetime import datetime
from pathlib import Path

from nbsessions.models import Owner, utcnow
from nbsessions.stores.base import SILENT_KEPT_FOR
from nbsessions.stores.locks import SUPPORTED, FileLock


def lock_path(database: Path, owner_id: str) -> Path:
    """Return the file that the owner holds locked for as long as it runs."""
    return database.with_name(f"{database.name}.owner-{owner_id}")


def is_dead(row: sqlite3.Row, judge: Owner, database: Path) -> bool:
    """Return whether the owner of this row is proven dead, or was silent for a day."""
    if row["stopped"] is not None:
        return True
    silent_for = utcnow() - datetime.fromisoformat(row["heartbeat"])
    if row["host"] != judge.host:
        return silent_for > SILENT_KEPT_FOR
    if row["boot"] and judge.boot_id and row["boot"] != judge.boot_id:
        return True
    verdict = _lock_is_free(lock_path(database, row["owner"]))
    return silent_for > SILENT_KEPT_FOR if verdict is None else verdict


def _lock_is_free(path: Path) -> bool | None:
    """Return whether nobody holds the lock; None where that cannot be known."""
    if not SUPPORTED:
        return None
    try:
        lock = FileLock(path, flags=os.O_RDWR)
    except OSError:
        return None
    try:
        if not lock.acquire():
            return False
        return True if lock.is_current() else None
    finally:
        lock.close()
