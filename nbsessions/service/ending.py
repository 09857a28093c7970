"""Ends the sessions of kernels that have died."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Collection

from nbsessions.errors import StoreError
from nbsessions.kernels.base import KernelProvider
from nbsessions.models import Session
from nbsessions.service.kernels import SessionKernels
from nbsessions.stores.base import SessionStore
from nbsessions.tasks import Tasks

_REMEMBERED = 1000
"""How many ended sessions are remembered, so that a late DELETE of one succeeds."""


class SessionEndings:
    """Ends sessions as soon as this server notices that their kernels have died."""

    def __init__(
        self,
        store: SessionStore,
        provider: KernelProvider,
        kernels: SessionKernels,
        *,
        log: logging.Logger,
    ) -> None:
        self._store = store
        self._provider = provider
        self._kernels = kernels
        self._log = log
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks = Tasks()
        self._under_way: set[str] = set()
        self._ended: deque[str] = deque(maxlen=_REMEMBERED)
        self._closing = False

    def watch(self) -> None:
        """End sessions as soon as the provider reports the end of their kernel."""
        self._loop = asyncio.get_running_loop()
        self._provider.watch(self._kernel_ended)

    async def finish(self, timeout: float) -> None:
        """Begin no further endings, and wait at most ``timeout`` seconds for running ones."""
        self._closing = True
        await self._tasks.wait(timeout)

    def close(self) -> None:
        """Stop ending sessions."""
        self._closing = True
        self._tasks.cancel()

    def end_later(self, kernel_ids: Collection[str]) -> None:
        """End the sessions of those kernels that are dead, in the background."""
        kernel_ids = set(kernel_ids) - self._under_way
        if kernel_ids and not self._closing:
            self._under_way.update(kernel_ids)
            self._tasks.spawn(self._end_in_background(kernel_ids))

    async def end(self, kernel_ids: Collection[str]) -> None:
        """End the sessions of those kernels that are dead. Raises StoreError."""
        sessions = await self._store.list_sessions()
        concerned = [session for session in sessions if session.kernel_id in kernel_ids]
        # End exactly these sessions, because a new kernel may get the same id meanwhile.
        pairs = await self._kernels.pair(concerned)
        dead = [session for session, model in pairs if model is None]
        if dead:
            for session in await self._store.end_sessions(dead):
                self.log_ended(session)

    def has_ended(self, session_id: str) -> bool:
        """Return whether the session ended with its kernel a short time ago."""
        return session_id in self._ended

    def log_ended(self, session: Session) -> None:
        """Log and remember that a session ended because its kernel died."""
        self._ended.append(session.session_id)
        self._log.info(
            "Session %s of %r ended: its kernel %s is gone",
            session.session_id,
            session.path,
            session.kernel_id,
        )

    def _kernel_ended(self, kernel_id: str) -> None:
        # A server may end its kernels after its event loop has stopped, and in a thread.
        loop = self._loop
        if loop is not None and loop.is_running():
            loop.call_soon_threadsafe(self.end_later, [kernel_id])

    async def _end_in_background(self, kernel_ids: Collection[str]) -> None:
        try:
            await self.end(kernel_ids)
        except StoreError as error:
            self._log.debug("Sessions of dead kernels could not be ended yet: %s", error)
        finally:
            self._under_way.difference_update(kernel_ids)
