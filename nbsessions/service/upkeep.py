"""Keeps the store and this server's part in it up to date while the server runs."""

from __future__ import annotations

import asyncio
import logging

from nbsessions.errors import StoreError
from nbsessions.service.encoded import EncodedSessions
from nbsessions.service.recovery import Recovery
from nbsessions.stores.base import SessionStore
from nbsessions.tasks import Tasks

HEARTBEAT_INTERVAL = 600.0
"""Seconds between two heartbeats in the store."""


class Upkeep:
    """Writes heartbeats, checks the store, and repeats the recovery. Used on one event loop.

    It also drops what is outdated of the list that is kept.
    """

    def __init__(
        self,
        store: SessionStore,
        recovery: Recovery,
        encoded: EncodedSessions,
        *,
        log: logging.Logger,
    ) -> None:
        self._store = store
        self._recovery = recovery
        self._encoded = encoded
        self._log = log
        self._tasks = Tasks()
        self._next: asyncio.TimerHandle | None = None
        self._last_heartbeat = 0.0
        """In the time of the event loop's clock."""
        self._stopped = False

    def begin(self) -> None:
        """Begin the rounds. Call it right after the owner was registered in the store."""
        self._last_heartbeat = asyncio.get_running_loop().time()
        self._schedule()

    def stop(self) -> None:
        """Begin no further round."""
        self._stopped = True
        if self._next is not None:
            self._next.cancel()

    def close(self) -> None:
        """Cancel the round that is running."""
        self.stop()
        self._tasks.cancel()

    def _schedule(self) -> None:
        if self._stopped:
            return
        # Use a timer instead of a sleeping task, so that no task is pending when the loop ends.
        loop = asyncio.get_running_loop()
        delay = self._store.check_interval
        self._next = loop.call_later(delay, lambda: self._tasks.spawn(self._run()))

    async def _run(self) -> None:
        now = asyncio.get_running_loop().time()
        try:
            await self._encoded.drop_changed()
            if now - self._last_heartbeat >= HEARTBEAT_INTERVAL:
                await self._store.heartbeat()
                self._last_heartbeat = now
            await self._store.ensure_intact()
            # Some owners and kernels can be proven dead only some time after the start.
            await self._recovery.run()
        except StoreError as error:
            self._log.debug("The store will be checked again later: %s", error)
        finally:
            self._schedule()
