"""Puts a new file, made of what can be read of a damaged one, in its place.

It may be cut short at any moment. The damaged file stays where it is until the new one is
complete and synced, which its name says; whoever opens the store next then ends the work.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from datetime import datetime
from pathlib import Path

from nbsessions.stores.sqlite.schema import SALVAGE, migrate

_MOVED = ("-wal", "-shm", "-journal", "")
_TROUBLE = ("disk is full", "I/O error", "locked", "unable to open", "readonly")
"""What SQLite says of a file that may well be whole, but cannot be read now."""


class Repair:
    """The repair of one file, which nobody else has open meanwhile. Blocks."""

    def __init__(self, path: Path, log: logging.Logger) -> None:
        self._path = path
        self._draft = beside(path, ".mending")
        self._complete = beside(path, ".mended")
        self._log = log

    @property
    def is_under_way(self) -> bool:
        """Whether the new file is complete, and only has to be put in its place."""
        return self._complete.exists()

    def start(self) -> None:
        """Write what can be read of the damaged file to a new one, all or nothing of it."""
        for path in (self._draft, beside(self._draft, "-journal")):
            path.unlink(missing_ok=True)
        try:
            make_private(self._draft)
            self._fill()
        except BaseException:
            self._draft.unlink(missing_ok=True)  # There may be no room for it.
            raise
        os.replace(self._draft, self._complete)

    def finish(self, problem: object) -> None:
        """Move the damaged file aside, and the new one to its place."""
        # The same name each time, should the moves be cut short and made again.
        moment = datetime.fromtimestamp(self._complete.stat().st_mtime)
        aside = beside(self._path, f".damaged-{moment:%Y%m%d-%H%M%S-%f}")
        self._log.error(
            "The session store %s was damaged (%s). A new one takes its place, with the %d "
            "sessions that could be read; the damaged file is moved to %s",
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
            connection.execute("PRAGMA fullfsync = 1")  # known on macOS only
            migrate(connection)
            connection.execute("BEGIN")
            for statement, rows in _salvage(self._path):
                connection.executemany(statement, rows)
            connection.execute("COMMIT")


def beside(path: Path, suffix: str) -> Path:
    """Return the file beside the store's whose name goes on with the suffix."""
    return path.with_name(path.name + suffix)


def make_private(path: Path) -> None:
    """Make an empty file that is its user's alone from its first moment on."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _salvage(path: Path) -> list[tuple[str, list[tuple[object, ...]]]]:
    """Return what can be read of our tables, as insert statements with their rows."""
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
