"""Moves sessions along when their files are renamed or moved."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Sequence

from nbsessions.errors import SessionError, StoreUncertain
from nbsessions.kernels.base import KernelProvider
from nbsessions.models import UNSET, Changes, Session, document_of, is_within
from nbsessions.service.joining import RunningCreations
from nbsessions.service.mutations import Mutations
from nbsessions.stores.base import SessionStore
from nbsessions.tasks import Tasks

_PATIENCE = 5.0
"""Seconds that others wait for a rename: as long as a write waits for a locked store."""


class Renaming:
    """Gives the sessions of renamed files and folders their new paths, and tells their kernels."""

    def __init__(
        self,
        store: SessionStore,
        provider: KernelProvider,
        mutations: Mutations,
        running: RunningCreations,
        *,
        log: logging.Logger,
    ) -> None:
        """``running``: the creations that a rename has to wait for, because it concerns them."""
        self._store = store
        self._provider = provider
        self._mutations = mutations
        self._running = running
        self._log = log
        self._moving = Tasks()

    async def rename(self, old_path: str, new_path: str) -> None:
        """Move the sessions of a file, or of all files in a folder, to the new path.

        Other sessions of a new path stay as they are. Does nothing when the service is closing.
        Raises StoreError.
        """
        old, new = document_of(old_path), document_of(new_path)
        if old and new and not self._mutations.closing:
            await self._mutations.run(self._rename(old, new))

    async def wait(self) -> None:
        """Wait for running renames: a request that names a path means the files after them."""
        await self._moving.wait(_PATIENCE)

    async def _rename(self, old: str, new: str) -> None:
        for task in self._running.within(old):
            self._mutations.spawn(self._follow(task, old, new))
        for session in await self._moving.spawn(self._move(old, new)):
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
        """Move a session that is still being created, as soon as it exists."""
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
            self._log.warning(
                "A session that was being created does not follow %r to %r: %s", old, new, error
            )
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
