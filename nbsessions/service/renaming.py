"""Moves sessions along when their files are renamed or moved."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Sequence

from msgspec import UNSET

from nbsessions.errors import SessionError, StoreUncertain
from nbsessions.kernels.base import KernelProvider
from nbsessions.models import Changes, Session, document_of, is_within
from nbsessions.service.joining import RunningCreations
from nbsessions.service.mutations import Mutations
from nbsessions.stores.base import SessionStore
from nbsessions.tasks import Tasks

_RENAME_TIMEOUT = 5.0
"""Seconds that other requests wait for a rename, equal to a write's wait for a locked store."""


class Renaming:
    """Gives sessions of renamed files their new paths, and updates the env of their kernels."""

    def __init__(
        self,
        store: SessionStore,
        provider: KernelProvider,
        mutations: Mutations,
        running: RunningCreations,
        *,
        log: logging.Logger,
    ) -> None:
        """``running``: the running creations. A rename applies to their sessions, too."""
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
        """Wait for running renames, because paths in requests refer to the files after them."""
        await self._moving.wait(_RENAME_TIMEOUT)

    async def _rename(self, old: str, new: str) -> None:
        for task in self._running.within(old):
            self._mutations.spawn(self._follow(task, old, new))
        for session in await self._moving.spawn(self._move(old, new)):
            self._update_env(session)

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
                "A session that was being created while %r was renamed to %r keeps its old path: "
                "%s",
                old,
                new,
                error,
            )
        else:
            self._update_env(release.session)

    def _update_env(self, session: Session) -> None:
        self._provider.update_env(session.kernel_id, path=session.path, name=session.name)
        self._log.info(
            "Session %s of kernel %s follows its file to %r",
            session.session_id,
            session.kernel_id,
            session.path,
        )
