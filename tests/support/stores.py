"""Opens stores of each kind, and watches the SQLite connections that they make."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Coroutine, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest

from nbsessions.models import EndReason, Orphans, Owner, Session
from nbsessions.stores.base import SessionStore
from nbsessions.stores.memory import MemorySessionStore, _MemoryTables
from nbsessions.stores.postgres import PostgresSessionStore
from nbsessions.stores.postgres.settings import connection_settings
from nbsessions.stores.postgres.tables import PostgresTables
from nbsessions.stores.sql.store import SQLSessionStore
from nbsessions.stores.sql.transaction import SQLTransaction
from nbsessions.stores.sqlite import SQLiteSessionStore
from nbsessions.stores.sqlite.tables import SQLiteTables
from support.postgres import shared_cluster
from support.values import SCOPE, make_owner, make_session

T = TypeVar("T")

LOG = logging.getLogger("nbsessions.tests")
NAMESPACE = "namespace"
OTHER_NAMESPACE = "another namespace"
SQLITE_KINDS = ("sqlite-wal", "sqlite-rollback")
SQL_KINDS = (*SQLITE_KINDS, "postgres")
KINDS = ("memory", *SQL_KINDS)


class Stores:
    """Opens stores of one kind in one place, and closes them after the test."""

    def __init__(self, kind: str, path: Path) -> None:
        self.kind = kind
        self.path = path
        self.url = shared_cluster().make_schema() if kind == "postgres" else ""
        self._made: list[SessionStore] = []

    def make(self, namespace: str = NAMESPACE, **options: Any) -> SessionStore:
        """Return a store that is not open yet."""
        store: SessionStore
        if self.kind == "memory":
            store = MemorySessionStore()
        elif self.kind == "postgres":
            store = PostgresSessionStore(connection_settings(self.url), namespace, log=LOG)
        else:
            store = SQLiteSessionStore(self.path, namespace, log=LOG, **options)
        self._made.append(store)
        return store

    async def open(
        self, owner: Owner | None = None, namespace: str = NAMESPACE, **options: Any
    ) -> SessionStore:
        store = self.make(namespace, **options)
        await store.open(owner or make_owner())
        return store

    def close(self) -> None:
        for store in self._made:
            store.close()

    def rows(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Return rows that are in the store now, read through a separate connection."""
        if self.kind == "postgres":
            with psycopg.connect(self.url) as connection:
                return connection.execute(statement.replace("?", "%s"), parameters).fetchall()  # type: ignore[arg-type]
        return rows(self.path, statement, *parameters)

    def revision(self, namespace: str = NAMESPACE) -> int:
        """Return the number of the last transaction that changed sessions, and perhaps others."""
        select = "SELECT revision FROM nbsessions_namespace WHERE namespace = ?"
        found = self.rows(select, namespace)
        return found[0][0] if found else 0


def turn_back_clock(patch: pytest.MonkeyPatch, by: timedelta) -> None:
    """Let the clocks of all stores go behind, for as long as the patch holds."""
    for tables in (_MemoryTables, SQLiteTables, PostgresTables):
        now = tables.now
        patch.setattr(tables, "now", lambda self, now=now: now(self) - by)


class Connections:
    """All SQLite connections that were made, and the faults that a test injects into them."""

    def __init__(self) -> None:
        self.opened: list[Watched] = []
        self.statements: list[str] = []
        self.full = False
        """Whether the file can no longer grow, so that SQLite reports SQLITE_FULL."""
        self.readonly = False
        """Whether writes are refused, so that SQLite reports SQLITE_READONLY."""
        self.cut_commit: str | None = None
        """The outcome of the next commit, which raises: ``kept``, ``lost`` or ``full``."""
        self.spared = 0
        """How many commits succeed before that one."""

    @property
    def writer(self) -> Watched:
        """The connection that writes."""
        return [each for each in self.opened if each.writes][-1]


class Watched(sqlite3.Connection):
    """A connection with the faults that ``connections`` asks for. Its creator sets that."""

    connections: Connections
    writes = False

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        control = self.connections
        control.statements.append(sql)
        if sql == "BEGIN IMMEDIATE":
            self.writes = True
            pages = 1 if control.full else 1_000_000
            super().execute(f"PRAGMA max_page_count = {pages}")
            super().execute(f"PRAGMA query_only = {int(control.readonly)}")
        if sql == "COMMIT" and self.writes and control.spared:
            control.spared -= 1
        elif sql == "COMMIT" and self.writes and control.cut_commit is not None:
            outcome, control.cut_commit = control.cut_commit, None
            super().execute("COMMIT" if outcome == "kept" else "ROLLBACK")
            full = "database or disk is full"
            raise sqlite3.OperationalError(full if outcome == "full" else "disk I/O error")
        return super().execute(sql, *parameters)


async def insert_many(store: SessionStore, count: int, scope: str = SCOPE) -> list[Session]:
    """Insert sessions in order, all at once: one after another, each would wait for the disk."""
    sessions = [make_session(f"{number}.ipynb", scope=scope) for number in range(count)]
    return list(await asyncio.gather(*(store.insert(session) for session in sessions)))


async def recover(
    store: SessionStore,
    orphans: Orphans,
    adopted: Sequence[str] = (),
    reason: EndReason = EndReason.DIED,
) -> list[Session]:
    """Adopt the sessions with these ids and end all others. Return the removed sessions."""
    return list(
        await store.recover(
            orphans,
            adopted=[each for each in orphans.sessions if each.session_id in adopted],
            ended=[(each, reason) for each in orphans.sessions if each.session_id not in adopted],
            undone=orphans.intents,
        )
    )


class WriterGate:
    """Holds the writer inside a transaction, so that later writes are queued."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    def __call__(self, transaction: SQLTransaction) -> None:
        self._reached.set()
        assert self._opened.wait(60)

    async def hold(self, store: SessionStore) -> asyncio.Task[None]:
        """Hold the writer. Return a task that ends when the writer has been released."""
        assert isinstance(store, SQLSessionStore)
        task = asyncio.ensure_future(store._write(self))
        await asyncio.to_thread(self._reached.wait, 60)
        return task

    def open(self) -> None:
        """Release the writer."""
        self._opened.set()


def in_background(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[asyncio.Task[T]]:
    """Start the coroutines and return their tasks."""
    return [asyncio.ensure_future(coroutine) for coroutine in coroutines]


async def queue(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[asyncio.Task[T]]:
    """Start the writes, and return their tasks when all of them are in the queue."""
    tasks = in_background(coroutines)
    await asyncio.sleep(0)
    return tasks


def rows(path: Path, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Return rows that are in the file now, read through a separate connection."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        return connection.execute(statement, parameters).fetchall()
    finally:
        connection.close()


def revision_of(path: Path, namespace: str = NAMESPACE) -> int:
    found = rows(path, "SELECT revision FROM nbsessions_namespace WHERE namespace = ?", namespace)
    return found[0][0] if found else 0


def ids(sessions: Sequence[Session]) -> list[str]:
    return [session.session_id for session in sessions]
