"""Ends sessions that were asked for under a made-up path and then left alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta

from nbsessions.errors import SessionError
from nbsessions.kernels.base import KernelProvider
from nbsessions.models import Session, utcnow
from nbsessions.stores.base import SessionStore
from nbsessions.tasks import Tasks

PLACEHOLDER_TIMEOUT = 300.0
"""Seconds in which a client gives a session its real path, or connects to its kernel."""


class Placeholders:
    """Looks at each placeholder once, when its time is over. Used on one event loop."""

    def __init__(
        self,
        store: SessionStore,
        provider: KernelProvider,
        end: Callable[[str], Awaitable[None]],
        *,
        log: logging.Logger,
    ) -> None:
        """``end`` ends a session by its id, as its client would."""
        self._store = store
        self._provider = provider
        self._end = end
        self._log = log
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks = Tasks()

    def watch(self, session: Session) -> None:
        """Look at the session when its time is over, if its path is a placeholder."""
        if session.is_placeholder and session.session_id not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers[session.session_id] = loop.call_later(
                PLACEHOLDER_TIMEOUT, self._look_at, session.session_id
            )

    def watch_again(self, sessions: Iterable[Session]) -> None:
        """Watch the new ones among sessions that another server has watched so far."""
        for session in sessions:
            # Who was connected to an older one before may be on their way back.
            if utcnow() - session.created < timedelta(seconds=PLACEHOLDER_TIMEOUT):
                self.watch(session)

    def close(self) -> None:
        """Look at nothing more."""
        for timer in self._timers.values():
            timer.cancel()
        self._tasks.cancel()

    def _look_at(self, session_id: str) -> None:
        del self._timers[session_id]
        self._tasks.spawn(self._end_if_abandoned(session_id))

    async def _end_if_abandoned(self, session_id: str) -> None:
        try:
            session = await self._store.find_session(session_id)
            if session is None or not session.is_placeholder:
                return
            if self._provider.was_connected(session.kernel_id):
                return
            await self._end(session_id)
        except SessionError as error:
            self._log.debug("Session %s is not ended: %s", session_id, error)
        else:
            self._log.info(
                "Session %s of %r ended: nobody has renamed it or connected to its kernel %s",
                session_id,
                session.path,
                session.kernel_id,
            )
