"""The reads of the store, answered from the checked cache or from the file."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from nbsessions.errors import StoreDamaged, StoreError
from nbsessions.models import Owner, Session
from nbsessions.stores.cache import SessionCache, Version
from nbsessions.stores.sql.mark import Mark
from nbsessions.stores.sql.reads import CachedReads
from nbsessions.stores.sql.thread import ReaderThread
from nbsessions.stores.sqlite.database import Database
from nbsessions.stores.sqlite.reader import Reader
from nbsessions.stores.sqlite.statements import SELECT_SESSIONS
from nbsessions.stores.sqlite.writer import Writer

T = TypeVar("T")


class Reads(CachedReads):
    """The reads for one scope, see CachedReads."""

    _writer: Writer

    def __init__(
        self,
        database: Database,
        writer: Writer,
        cache: SessionCache,
        thread: ReaderThread,
        *,
        namespace: str,
        owner: Owner,
        busy_timeout: float,
        log: logging.Logger,
    ) -> None:
        """``busy_timeout`` is the number of seconds that a read in the thread waits for a lock."""
        super().__init__(writer, cache, owner, log=log)
        self._database = database
        self._thread = thread
        self._namespace = namespace
        self._checker = Reader(database, busy_timeout=0.0)
        """For reads on the event loop, which must not block."""
        self._reader = Reader(database, busy_timeout=busy_timeout)
        """For reads in the thread."""

    def close(self) -> None:
        """Close the connections. The cache keeps its contents."""
        self._checker.close()
        self._reader.close()

    async def refresh(self) -> SessionCache:
        if self._database.wal and self._is_fresh():
            return self._cache
        return await super().refresh()

    async def query(self, statement: str, parameters: Sequence[object]) -> list[sqlite3.Row]:
        """Return the rows from the file, not from the cache. Raises StoreError."""
        return await self.run(self.query_in_thread, statement, parameters)

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Run the function in the thread. If the file is damaged, repair it and retry."""
        try:
            return await self._thread.run(function, *arguments)
        except StoreDamaged:
            await self._writer.heartbeat()
            return await self._thread.run(function, *arguments)

    def query_in_thread(
        self, statement: str, parameters: Sequence[object] | Mapping[str, object]
    ) -> list[sqlite3.Row]:
        """Run a query from within a function that already runs in the thread."""
        return self._reader.query(statement, parameters)

    async def is_intact(self) -> bool:
        """Return whether the file has everything that this server wrote."""
        return await self._thread.run(self._is_intact, self._writer.mark)

    # On the event loop

    def _is_fresh(self) -> bool:
        # This takes microseconds. In WAL mode, readers do not wait for writers.
        try:
            version, _ = self._version(self._checker, self._writer.mark)
        except StoreError:
            return False
        return self._cache.is_at(version)

    async def _read_unless_current(self) -> tuple[Version, list[Session]] | None:
        return await self._thread.run(self._read_in_thread, self._writer.mark)

    # In the thread

    def _is_intact(self, mark: Mark) -> bool:
        try:
            self._version(self._reader, mark)
        except StoreError:
            return False
        return self._database.is_in_place() and self._database.damage is None

    def _read_in_thread(self, mark: Mark) -> tuple[Version, list[Session]] | None:
        if self._is_current(*self._version(self._reader, mark)):
            return None
        version, rows = self._reader.snapshot(
            self._namespace,
            self._owner.owner_id,
            mark,
            SELECT_SESSIONS,
            (self._namespace, self._owner.scope),
        )
        return version, self._database.rows.sessions(rows)

    def _version(self, reader: Reader, mark: Mark) -> tuple[Version, int]:
        return reader.version(self._namespace, self._owner.owner_id, mark)
