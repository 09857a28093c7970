"""Replaces a damaged file by a new one that contains the rows that can still be read.

A repair may be interrupted at any moment. The damaged file stays in place until the new one is
complete and synced. The new file is then renamed, which marks it as complete, and the next server
that opens the store finishes the repair.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from datetime import datetime
from pathlib import Path

from nbsessions.stores.sqlite.schema import SALVAGE, migrate

COMPLETE = ".mended"
"""The suffix of the new file once it is complete."""

_MOVED = ("-wal", "-shm", "-journal", "")
_TROUBLE = ("disk is full", "I/O error", "locked", "unable to open", "readonly")
"""Parts of SQLite's messages about a file that may be intact but cannot be read now."""


class Repair:
    """The repair of a file that no other server has open. Blocks."""

    def __init__(self, path: Path, log: logging.Logger) -> None:
        self._path = path
        self._draft = beside(path, ".mending")
        self._complete = beside(path, COMPLETE)
        self._log = log

    @property
    def is_under_way(self) -> bool:
        """Whether the new file is complete and has only to be moved into place."""
        return self._complete.exists()

    def start(self) -> None:
        """Write all readable rows of the damaged file to a new file, or write nothing."""
        for path in (self._draft, beside(self._draft, "-journal")):
            path.unlink(missing_ok=True)
        try:
            make_private(self._draft)
            self._fill()
        except BaseException:
            self._draft.unlink(missing_ok=True)  # The disk may be full.
            raise
        os.replace(self._draft, self._complete)

    def finish(self, problem: object) -> None:
        """Move the damaged file aside and the new one into its place."""
        # The name must be the same if the moves are interrupted and repeated.
        moment = datetime.fromtimestamp(self._complete.stat().st_mtime)
        aside = beside(self._path, f".damaged-{moment:%Y%m%d-%H%M%S-%f}")
        self._log.error(
            "The session store %s was damaged (%s). It is replaced by a new file with the %d "
            "sessions that could be read. The damaged file is moved to %s",
            self._path,
            problem,
            _count_sessions(self._complete),
            aside,
        )
        for suffix in _MOVED:
            with contextlib.suppress(FileNotFoundError):
                os.replace(beside(self._path, suffix), beside(aside, suffix))
        os.replace(self._complete, self._path)

    def _fill(self) -> None:
        with contextlib.closing(sqlite3.connect(self._draft, isolation_level=None)) as connection:
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA fullfsync = 1")  # has an effect only on macOS
            migrate(connection)
            connection.execute("BEGIN")
            for statement, rows in _salvage(self._path):
                connection.executemany(statement, rows)
            connection.execute("COMMIT")


def beside(path: Path, suffix: str) -> Path:
    """Return the path in the same folder whose name ends in the suffix."""
    return path.with_name(path.name + suffix)


def real_path(path: Path) -> Path:
    """Return the path without symbolic links. Unlike ``Path.resolve``, this never raises."""
    return Path(os.path.realpath(path))


def make_private(path: Path) -> None:
    """Create an empty file that only its user can access."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _salvage(path: Path) -> list[tuple[str, list[tuple[object, ...]]]]:
    """Return insert statements with the rows of our tables that can be read."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        found = []
        for forwards, backwards, insert in SALVAGE:
            rows: list[tuple[object, ...]] = []
            for query in (forwards, backwards):
                try:
                    rows.extend(connection.execute(query))
                except sqlite3.Error as error:
                    if any(message in str(error) for message in _TROUBLE):
                        raise
            found.append((insert, rows))
        return found


def _count_sessions(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        count: int = connection.execute("SELECT COUNT(*) FROM nbsessions_session").fetchone()[0]
        return count
