"""Ends sessions that were created under a placeholder path and then abandoned."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from datetime import timedelta

from nbsessions.errors import SessionError
from nbsessions.kernels.base import KernelProvider
from nbsessions.models import Session, utcnow
from nbsessions.service.changing import Changing
from nbsessions.stores.base import SessionStore
from nbsessions.tasks import Tasks

PLACEHOLDER_TIMEOUT = 300.0
"""Seconds that a client has to give the session its real path or connect to its kernel."""


class Placeholders:
    """Checks each placeholder session once, after the time-out. Used on one event loop."""

    def __init__(
        self,
        store: SessionStore,
        provider: KernelProvider,
        changing: Changing,
        *,
        log: logging.Logger,
    ) -> None:
        self._store = store
        self._provider = provider
        self._changing = changing
        self._log = log
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks = Tasks()

    def watch(self, session: Session) -> None:
        """Check the session after the time-out, if its path is a placeholder."""
        if session.is_placeholder and session.session_id not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers[session.session_id] = loop.call_later(
                PLACEHOLDER_TIMEOUT, self._check, session.session_id
            )

    def watch_again(self, sessions: Iterable[Session]) -> None:
        """Watch those sessions of another server that were created recently."""
        for session in sessions:
            # An older session may have had a connected client that is about to reconnect.
            if utcnow() - session.created < timedelta(seconds=PLACEHOLDER_TIMEOUT):
                self.watch(session)

    def close(self) -> None:
        """Stop all checks."""
        for timer in self._timers.values():
            timer.cancel()
        self._tasks.cancel()

    def _check(self, session_id: str) -> None:
        del self._timers[session_id]
        self._tasks.spawn(self._end_if_abandoned(session_id))

    async def _end_if_abandoned(self, session_id: str) -> None:
        try:
            session = await self._store.find_session(session_id)
            if session is None or not session.is_placeholder:
                return
            # What the provider knows may be old, if nobody has asked for this kernel here.
            await self._provider.models([session.kernel_id])
            if self._provider.was_connected(session.kernel_id):
                return
            await self._changing.delete(session_id)
        except SessionError as error:
            self._log.debug("Session %s could not be ended: %s", session_id, error)
        else:
            self._log.info(
                "Session %s of %r ended: no client renamed it or connected to its kernel %s",
                session_id,
                session.path,
                session.kernel_id,
            )
