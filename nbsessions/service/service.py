"""The sessions of one server: one method per use case, over the parts that carry them out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Iterable, Sequence

from nbsessions.kernels.base import KernelProvider
from nbsessions.kernels.noted import ModelChanges
from nbsessions.models import (
    Ending,
    Kernel,
    LiveSession,
    Missed,
    NewSession,
    Owner,
    SessionPatch,
)
from nbsessions.replies import Encoded
from nbsessions.service.adopting import Adopting
from nbsessions.service.changing import Changing
from nbsessions.service.cleanup import Cleanup
from nbsessions.service.creating import Creating
from nbsessions.service.encoded import EncodedSessions
from nbsessions.service.ending import SessionEndings
from nbsessions.service.joining import RunningCreations
from nbsessions.service.kernels import SessionKernels
from nbsessions.service.lookups import Lookups
from nbsessions.service.mutations import Mutations
from nbsessions.service.placeholders import Placeholders
from nbsessions.service.recovery import Recovery
from nbsessions.service.renaming import Renaming
from nbsessions.service.starting import KernelStarts
from nbsessions.service.unserved import Unserved
from nbsessions.service.upkeep import Upkeep
from nbsessions.stores.base import SessionStore

_STOP_TIMEOUT = 5.0
"""Seconds that running operations get when the server stops."""


class SessionService:
    """The use cases of sessions, and opening and closing them. Used on one event loop.

    A mutation continues when its caller is cancelled. It is completed or undone as a whole.
    """

    def __init__(
        self, store: SessionStore, provider: KernelProvider, *, owner: Owner, log: logging.Logger
    ) -> None:
        self._store = store
        self._provider = provider
        self._owner = owner
        self._is_store_open = False
        self._mutations = mutations = Mutations()
        self._kernels = kernels = SessionKernels(provider)
        self._endings = endings = SessionEndings(store, provider, kernels, log=log)
        self._lookups = lookups = Lookups(store, kernels, endings)
        self._model_changes = ModelChanges()
        self._encoded = encoded = EncodedSessions(store, lookups, self._model_changes)
        self._cleanup = cleanup = Cleanup(store, provider, log=log)
        self._starts = starts = KernelStarts(store, provider, cleanup, scope=owner.scope)
        self._changing = changing = Changing(
            store, provider, mutations, lookups, kernels, starts, cleanup, endings
        )
        self._placeholders = placeholders = Placeholders(store, provider, changing, log=log)
        running = RunningCreations(mutations)
        self._renaming = renaming = Renaming(store, provider, mutations, running, log=log)
        self._recovery = recovery = Recovery(
            store, provider, cleanup, endings, placeholders, scope=owner.scope, log=log
        )
        self._adopting = adopting = Adopting(store, provider, recovery, log=log)
        self._creating = Creating(
            store,
            provider,
            mutations,
            running,
            kernels,
            starts,
            cleanup,
            endings,
            placeholders,
            renaming,
            adopting,
            scope=owner.scope,
            log=log,
        )
        self._unserved = Unserved(store, provider, log=log)
        self._upkeep = Upkeep(store, recovery, encoded, log=log)

    # Opening and closing

    async def open(self) -> None:
        """Open the store and recover what dead owners left.

        Raises StoreError. No session may be served then, and the caller has to try again:
        without the recovery, the sessions of adopted kernels would be missing.
        """
        if not self._is_store_open:
            await self._store.open(self._owner)
            self._is_store_open = True
        await self._recovery.run()
        await self._recovery.log_kernels_without_session(self._provider.list_adopted())
        self._placeholders.watch_again(await self._store.list_sessions())
        self._endings.watch()
        self._provider.watch_models(self._model_changes)
        self._unserved.begin()
        self._upkeep.begin()
        self._adopting.begin()

    async def stop(self) -> None:
        """Refuse new operations, and give running ones a few seconds to finish.

        An operation that takes longer undoes itself when it continues. Call this while kernels
        can still be reached, and ``close`` when they are down.
        """
        self._mutations.closing = True
        self._upkeep.stop()
        await self._adopting.stop(_STOP_TIMEOUT)
        await self._unserved.stop(_STOP_TIMEOUT)
        await self._mutations.wait(_STOP_TIMEOUT)
        await self._endings.finish(_STOP_TIMEOUT)
        self._starts.closing = True
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._cleanup.finish(), _STOP_TIMEOUT)

    def close(self) -> None:
        """Remove the sessions whose kernels are down, and close the store. Idempotent."""
        self._mutations.closing = self._starts.closing = True
        self._upkeep.close()
        self._adopting.close()
        self._unserved.close()
        self._placeholders.close()
        self._cleanup.close()
        self._endings.close()
        self._store.close(running=self._provider.list_running())

    # Use cases

    async def list_sessions(self, **columns: str | None) -> Iterable[LiveSession]:
        """See Lookups.list_sessions."""
        return await self._lookups.list_sessions(**columns)

    async def encode_sessions(self) -> Encoded:
        """See EncodedSessions.read."""
        return await self._encoded.read()

    async def encode_session(self, session_id: str) -> Encoded:
        """See EncodedSessions.read_one."""
        return await self._encoded.read_one(session_id)

    async def get(self, **columns: str | None) -> LiveSession:
        """See Lookups.get."""
        return await self._lookups.get(**columns)

    async def find_missing(
        self, session_ids: Collection[str]
    ) -> Sequence[tuple[str, Ending | None]]:
        """See Lookups.find_missing."""
        return await self._lookups.find_missing(session_ids)

    def find_missed(self, clients: Collection[str]) -> Collection[Missed]:
        """See KernelProvider.find_missed."""
        return self._provider.find_missed(clients)

    async def create(self, request: NewSession) -> LiveSession:
        """See Creating.create."""
        return await self._creating.create(request)

    async def save(self, session_id: str, request: NewSession) -> LiveSession:
        """See Creating.save."""
        return await self._creating.save(session_id, request)

    async def update(
        self, session_id: str, patch: SessionPatch, *, force: bool = False
    ) -> LiveSession:
        """See Changing.update."""
        return await self._changing.update(session_id, patch, force=force)

    async def rename(self, old_path: str, new_path: str) -> None:
        """See Renaming.rename."""
        await self._renaming.rename(old_path, new_path)

    async def delete(self, session_id: str, *, force: bool = False) -> None:
        """See Changing.delete."""
        await self._changing.delete(session_id, force=force)

    async def start_kernel(self, request: NewSession, session_id: str) -> Kernel:
        """See Creating.start_kernel."""
        return await self._creating.start_kernel(request, session_id)

    async def end_kernel(self, kernel_id: str, session_ids: Collection[str]) -> bool:
        """See Changing.end_kernel."""
        return await self._changing.end_kernel(kernel_id, session_ids)

    async def list_kernels(self) -> dict[str, set[str]]:
        """See Lookups.list_kernels."""
        return await self._lookups.list_kernels()

    def outlives_server(self) -> bool:
        """Return whether other servers can go on with the sessions when this one has ended."""
        return self._store.outlives_server and bool(self._provider.shared_scope)

    async def has_kernel(self, kernel_id: str) -> bool:
        """Return whether the kernel is alive or unknown, rather than dead."""
        return await self._kernels.may_live(kernel_id)
