"""Fixtures for the tests of stores: stores of each kind, and connections that fail on demand."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from nbsessions.stores.base import SessionStore
from nbsessions.stores.sqlite import database
from support.stores import Connections, Stores, Watched


@pytest.fixture
def stores(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stores]:
    """Stores of one kind, which is SQLite in WAL mode unless the test chooses another."""
    kind = getattr(request, "param", "sqlite-wal")
    # The tests must not depend on the file system that they run on.
    monkeypatch.setattr(database, "is_local", lambda folder: kind == "sqlite-wal")
    opened = Stores(kind, tmp_path / "sessions.db")
    yield opened
    opened.close()


@pytest.fixture
def store(stores: Stores, io_loop: IOLoop) -> Iterator[SessionStore]:
    """An open store."""
    opened: SessionStore = io_loop.run_sync(stores.open)
    yield opened
    opened.close()


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> Connections:
    """Watch new connections, and make them fail on demand."""
    control = Connections()
    connect = sqlite3.connect
    watched = type("Watched", (Watched,), {"connections": control})

    def connect_watched(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options, factory=watched)
        control.opened.append(connection)
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_watched)
    return control
