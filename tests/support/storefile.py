"""Reads a store from outside, as it would be found after a crash, or locks its file."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import dict_row

from support.waiting import wait_until

UNFINISHED = ("start", "lost", "stop")


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the file's write lock, as another process would."""
    with closing(sqlite3.connect(file, isolation_level=None, timeout=10)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


class StoreContents(NamedTuple):
    """The rows of our tables, as dictionaries."""

    sessions: list[dict[str, Any]]
    intents: list[dict[str, Any]]
    owners: list[dict[str, Any]]

    def session_ids(self) -> set[str]:
        """Return the ids of the sessions."""
        return {row["session_id"] for row in self.sessions}

    def unfinished(self) -> list[dict[str, Any]]:
        """Return the intents of operations under way, or unfinished when their server died."""
        return [row for row in self.intents if row["verb"] in UNFINISHED]


def read_store(path: Path | str) -> StoreContents:
    """Read a copy of the file, or the database with this URL.

    Opening the file itself would already clean up after a crash.
    """
    if isinstance(path, str):
        return _read_database(path)
    return StoreContents(
        read_rows(path, "SELECT * FROM nbsessions_session ORDER BY seq"),
        read_rows(path, "SELECT * FROM nbsessions_intent ORDER BY rowid"),
        read_rows(path, "SELECT * FROM nbsessions_owner ORDER BY rowid"),
    )


def _read_database(url: str) -> StoreContents:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return StoreContents(
            connection.execute("SELECT * FROM nbsessions_session ORDER BY seq").fetchall(),
            connection.execute("SELECT * FROM nbsessions_intent ORDER BY seq").fetchall(),
            connection.execute("SELECT * FROM nbsessions_owner ORDER BY heartbeat").fetchall(),
        )


def read_rows(path: Path, query: str, *parameters: object) -> list[dict[str, Any]]:
    """Return the rows of a query on a copy of the file."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        for suffix in ("", "-wal", "-journal"):
            source = path.with_name(path.name + suffix)
            if source.exists():
                shutil.copyfile(source, copy.with_name(source.name))
        connection = sqlite3.connect(copy)
        try:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(query, parameters)]
        finally:
            connection.close()


def find_paths(path: Path) -> dict[str, Any] | None:
    """Return the paths of the sessions, by session id. None while the file is being created."""
    try:
        rows = read_rows(path, "SELECT session_id, path FROM nbsessions_session")
    except (OSError, sqlite3.Error):
        return None
    return {row["session_id"]: row["path"] for row in rows}


def wait_for_rest(path: Path | str) -> None:
    """Wait until nothing is under way."""
    wait_until(lambda: not read_store(path).unfinished(), "no intent is open")
