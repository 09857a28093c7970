"""The reads of the store, answered from the checked cache or from the file."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from typing import TypeVar

from nbsessions.errors import StoreDamaged, StoreError
from nbsessions.models import Owner, Session
from nbsessions.stores.cache import SessionCache, Version
from nbsessions.stores.sql.mark import Mark, StoreReverted
from nbsessions.stores.sql.reloading import SharedReload
from nbsessions.stores.sql.thread import ReaderThread
from nbsessions.stores.sqlite.database import Database
from nbsessions.stores.sqlite.reader import Reader
from nbsessions.stores.sqlite.statements import SELECT_SESSIONS
from nbsessions.stores.sqlite.writer import Writer

T = TypeVar("T")


class Reads:
    """The reads for one scope. Call the methods on the event loop, unless documented otherwise."""

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
        self._database = database
        self._writer = writer
        self._cache = cache
        self._thread = thread
        self._namespace = namespace
        self._owner = owner
        self._log = log
        self._checker = Reader(database, busy_timeout=0.0)
        """For reads on the event loop, which must not block."""
        self._reader = Reader(database, busy_timeout=busy_timeout)
        """For reads in the thread."""
        self._reloading = SharedReload(self._reload)
        self._restoring: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Close the connections. The cache keeps its contents."""
        self._checker.close()
        self._reader.close()

    async def refresh(self) -> SessionCache:
        """Return the cache, with everything that was committed before this call.

        If the file cannot be read, the cache has the sessions that this server knows. These are
        all sessions of the scope, because only this server writes them. Raises StoreError if the
        scope is shared.
        """
        if not (self._database.wal and self._is_fresh()):
            await self._reloading.run()
        return self._cache

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

    def query_in_thread(self, statement: str, parameters: Sequence[object]) -> list[sqlite3.Row]:
        """Run a query from within a function that already runs in the thread."""
        return self._reader.query(statement, parameters)

    async def is_intact(self) -> bool:
        """Return whether the file has everything that this server wrote."""
        return await self._thread.run(self._is_intact, self._writer.mark)

    # On the event loop

    def _is_fresh(self) -> bool:
        # This takes microseconds. In WAL mode, readers do not wait for writers.
        try:
            return self._cache.is_at(self._version(self._checker, self._writer.mark))
        except StoreError:
            return False

    async def _reload(self) -> None:
        try:
            await self._read()
        except StoreReverted:
            self._restore()
        except StoreError as error:
            if self._owner.shared_scope:
                raise
            self._log.debug(
                "Sessions are listed from memory because the store cannot be read: %s", error
            )

    async def _read(self) -> None:
        """Bring the cache up to date. Raises StoreError."""
        try:
            found = await self._thread.run(self._read_unless_current, self._writer.mark)
        except StoreReverted:
            if not self._owner.shared_scope:
                raise
            # Others have written to this scope, so it has to be read.
            await self._writer.heartbeat()
            found = await self._thread.run(self._read_unless_current, self._writer.mark)
        while found is not None and not self._cache.replace(*found):
            found = await self._thread.run(self._read_unless_current, self._writer.mark)

    def _restore(self) -> None:
        """Write this server's sessions and intents to the file again, in the background."""
        if self._restoring is None:
            self._restoring = asyncio.ensure_future(self._writer.heartbeat())
            self._restoring.add_done_callback(self._restored)

    def _restored(self, task: asyncio.Task[None]) -> None:
        self._restoring = None
        if not task.cancelled() and task.exception() is not None:
            self._log.debug("The session store will be updated later: %s", task.exception())

    # In the thread

    def _is_intact(self, mark: Mark) -> bool:
        try:
            self._version(self._reader, mark)
        except StoreError:
            return False
        return self._database.is_in_place() and self._database.damage is None

    def _read_unless_current(self, mark: Mark) -> tuple[Version, list[Session]] | None:
        """Return the sessions and their version, or None if the cache has that version."""
        if self._cache.is_at(self._version(self._reader, mark)):
            return None
        version, rows = self._reader.snapshot(
            self._namespace,
            self._owner.owner_id,
            mark,
            SELECT_SESSIONS,
            (self._namespace, self._owner.scope),
        )
        return version, self._database.rows.sessions(rows)

    def _version(self, reader: Reader, mark: Mark) -> Version:
        return reader.version(self._namespace, self._owner.owner_id, mark)
