"""Keeps the cache of a store up to date, and lists what it has if the store cannot be read."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import Any

from nbsessions.errors import StoreError
from nbsessions.models import Owner, Session
from nbsessions.stores.cache import SessionCache, Version
from nbsessions.stores.sql.mark import StoreReverted
from nbsessions.stores.sql.writer import BatchWriter
from nbsessions.tasks import SharedRun


class Undelivered(Exception):
    """The store has a write of this server that has not reached the cache yet."""

    def __init__(self, written: int) -> None:
        """``written`` is the number of the write, see ``Mark``."""
        super().__init__(f"write {written} is not delivered")
        self.written = written


class CachedReads(ABC):
    """The reads for one scope. Call the methods on the event loop, unless documented otherwise."""

    def __init__(
        self, writer: BatchWriter[Any], cache: SessionCache, owner: Owner, *, log: logging.Logger
    ) -> None:
        self._cache = cache
        self._owner = owner
        self._log = log
        self._writer = writer
        self._is_patient = True
        """Whether the read that is under way waits for a write of this server."""
        self._reloading = SharedRun(self._reload)
        self._restoring: asyncio.Task[None] | None = None

    async def refresh(self) -> SessionCache:
        """Return the cache, with everything that was committed before this call.

        If the store cannot be read, the cache has the sessions that this server knows. These are
        all sessions of the scope, because only this server writes them. Raises StoreError if the
        scope is shared.
        """
        await self._reloading.run()
        return self._cache

    @abstractmethod
    async def _read_unless_current(self) -> tuple[Version, list[Session]] | None:
        """Return the sessions and their version, or None if the cache has that version.

        Decides by ``_is_current``. Raises Undelivered, StoreReverted if the store lacks what this
        server wrote, and StoreError.
        """

    def _is_current(self, version: Version, written: int) -> bool:
        """Return whether the cache has this version. Safe to call from any thread.

        ``written`` is the number of this server's last write in that version. Raises Undelivered
        if the cache will have that write in a moment.
        """
        # First, because the write may be delivered in between.
        is_undelivered = self._writer.is_undelivered(written)
        if self._cache.is_at(version):
            return True
        if is_undelivered and self._is_patient:
            raise Undelivered(written)
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
        try:
            found = await self._read_once_delivered()
        except StoreReverted:
            if not self._owner.shared_scope:
                raise
            # Others have written to this scope, so it has to be read.
            await self._writer.heartbeat()
            found = await self._read_once_delivered()
        while found is not None and not self._cache.replace(*found):
            found = await self._read_once_delivered()

    async def _read_once_delivered(self) -> tuple[Version, list[Session]] | None:
        """Return the sessions and their version, or None if the cache has that version.

        Waits for a write of this server that is about to reach the cache. To read thousands of
        sessions instead would take much longer.
        """
        self._is_patient = True
        while True:
            try:
                return await self._read_unless_current()
            except Undelivered as undelivered:
                # If the write does not arrive, only the store can tell.
                self._is_patient = await self._writer.wait_for_delivery(undelivered.written)

    def _restore(self) -> None:
        """Write this server's sessions and intents to the store again, in the background."""
        if self._restoring is None:
            self._restoring = asyncio.ensure_future(self._writer.heartbeat())
            self._restoring.add_done_callback(self._restored)

    def _restored(self, task: asyncio.Task[None]) -> None:
        self._restoring = None
        if not task.cancelled() and task.exception() is not None:
            self._log.debug("The session store will be updated later: %s", task.exception())
