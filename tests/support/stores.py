"""Opens stores of each kind, and watches the connections that they make to SQLite."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from nbsessions.models import Orphans, Owner, Session
from nbsessions.stores.base import SessionStore
from nbsessions.stores.memory import MemorySessionStore
from nbsessions.stores.sqlite import SQLiteSessionStore
from nbsessions.stores.sqlite.transaction import SQLiteTransaction
from support.values import SCOPE, make_owner, make_session

T = TypeVar("T")

LOG = logging.getLogger("nbsessions.tests")
NAMESPACE = "namespace"
OTHER_NAMESPACE = "another namespace"
SQLITE_KINDS = ("sqlite-wal", "sqlite-rollback")
KINDS = ("memory", *SQLITE_KINDS)


class Stores:
    """Opens stores of one kind in one place; what is left open is closed after the test."""

    def __init__(self, kind: str, path: Path) -> None:
        self.kind = kind
        self.path = path
        self._made: list[SessionStore] = []

    def make(self, namespace: str = NAMESPACE, **options: Any) -> SessionStore:
        """Return a store that is still to be opened."""
        store: SessionStore
        if self.kind == "memory":
            store = MemorySessionStore()
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


class Connections:
    """All connections that are made to SQLite, and the faults that they are to have."""

    def __init__(self) -> None:
        self.opened: list[Watched] = []
        self.statements: list[str] = []
        self.full = False
        """Whether the file cannot grow any more: SQLite's own SQLITE_FULL."""
        self.readonly = False
        """Whether writes are refused: SQLite's own SQLITE_READONLY."""
        self.cut_commit: str | None = None
        """``kept``, ``lost`` or ``full``: what becomes of a commit, which raises."""
        self.spared = 0
        """How many commits are made before that one."""

    @property
    def writer(self) -> Watched:
        """The connection that writes."""
        return [each for each in self.opened if each.writes][-1]


class Watched(sqlite3.Connection):
    """A connection that does as it is told by ``connections``, which whoever makes it sets."""

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
    """Put in so many sessions, in their order and at once: each alone waits for the disk."""
    sessions = [make_session(f"{number}.ipynb", scope=scope) for number in range(count)]
    return list(await asyncio.gather(*(store.insert(session) for session in sessions)))


async def recover(
    store: SessionStore, orphans: Orphans, adopted: Sequence[str] = ()
) -> list[Session]:
    """Take over the sessions of these ids, and end all else; return what was removed."""
    return list(
        await store.recover(
            orphans,
            adopted=[each for each in orphans.sessions if each.session_id in adopted],
            ended=[each for each in orphans.sessions if each.session_id not in adopted],
            undone=orphans.intents,
        )
    )


class WriterGate:
    """Holds the writer inside a transaction, so that what comes next is queued."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    def __call__(self, transaction: SQLiteTransaction) -> None:
        self._reached.set()
        assert self._opened.wait(60)

    async def hold(self, store: SessionStore) -> asyncio.Task[None]:
        """Return what ends when the writer has been let go."""
        assert isinstance(store, SQLiteSessionStore)
        task = asyncio.ensure_future(store._write(self))
        await asyncio.to_thread(self._reached.wait, 60)
        return task

    def open(self) -> None:
        """Let the writer go."""
        self._opened.set()


def in_background(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[asyncio.Task[T]]:
    """Start them, and return their tasks."""
    return [asyncio.ensure_future(coroutine) for coroutine in coroutines]


async def queue(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[asyncio.Task[T]]:
    """Start the writes and return when all of them are in the queue."""
    tasks = in_background(coroutines)
    await asyncio.sleep(0)
    return tasks


def rows(path: Path, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Return what is in the file now, by a connection of the test's own."""
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
