"""Has sessions follow their files when those are renamed or moved."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from nbsessions.errors import SessionError, StoreUncertain
from nbsessions.kernels.base import KernelProvider
from nbsessions.models import UNSET, Changes, Session, is_within
from nbsessions.stores.base import SessionStore
from nbsessions.tasks import Tasks

_PATIENCE = 5.0
"""Seconds that others wait for a rename: as long as a write waits for a locked store."""


class Renames:
    """Moves the sessions of renamed files and folders, and tells their kernels."""

    def __init__(
        self,
        store: SessionStore,
        provider: KernelProvider,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        *,
        log: logging.Logger,
    ) -> None:
        """``spawn`` runs what outlasts a rename: sessions that are being created follow it."""
        self._store = store
        self._provider = provider
        self._spawn = spawn
        self._log = log
        self._running = Tasks()

    async def settled(self) -> None:
        """Wait for the renames that are under way: who asks for a path means the new files."""
        await self._running.wait(_PATIENCE)

    async def rename(
        self, old: str, new: str, creating: Sequence[asyncio.Task[Session]] = ()
    ) -> None:
        """Move what is at the document ``old`` or in the folder ``old``. Raises StoreError.

        ``creating``: sessions that were asked for by the old path, and are not there yet.
        """
        for task in creating:
            self._spawn(self._follow(task, old, new))
        for session in await self._running.spawn(self._move(old, new)):
            self._tell(session)

    async def _move(self, old: str, new: str) -> Sequence[Session]:
        try:
            return await self._store.rename_document(old, new)
        except StoreUncertain:
            sessions = await self._store.list_sessions()
            if any(session.renamed(old, new) for session in sessions):
                raise
            return [each for each in sessions if each.document and is_within(each.document, new)]

    async def _follow(self, creating: asyncio.Task[Session], old: str, new: str) -> None:
        await asyncio.wait({creating})
        if creating.cancelled() or creating.exception() is not None:
            return
        try:
            before = await self._store.find_session(creating.result().session_id)
            after = before and before.renamed(old, new)
            if after is None or after.path is None:
                return
            release = await self._store.update(
                after.session_id,
                Changes(path=after.path, name=UNSET if after.name is None else after.name),
                stop_token=str(uuid.uuid4()),
            )
        except SessionError as error:
            self._log.warning("A new session does not follow %r to %r: %s", old, new, error)
        else:
            self._tell(release.session)

    def _tell(self, session: Session) -> None:
        self._provider.update_env(session.kernel_id, path=session.path, name=session.name)
        self._log.info(
            "Session %s of kernel %s follows its file to %r",
            session.session_id,
            session.kernel_id,
            session.path,
        )
