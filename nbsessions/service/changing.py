"""Updates and deletes sessions, and shuts down the kernels that no session uses any more."""

from __future__ import annotations

import uuid
from collections.abc import Collection

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from nbsessions.errors import SessionNotFound, StartInProgress, StartLost, StoreUncertain
from nbsessions.kernels.base import KernelProvider
from nbsessions.models import (
    Changes,
    Kernel,
    LiveSession,
    Release,
    Session,
    SessionPatch,
)
from nbsessions.service.cleanup import Cleanup, is_certain
from nbsessions.service.ending import SessionEndings
from nbsessions.service.kernels import SessionKernels
from nbsessions.service.lookups import Lookups
from nbsessions.service.mutations import Mutations
from nbsessions.service.starting import KernelStarts
from nbsessions.stores.base import SessionStore


class Changing:
    """Changes and removes sessions that exist."""

    def __init__(
        self,
        store: SessionStore,
        provider: KernelProvider,
        mutations: Mutations,
        lookups: Lookups,
        kernels: SessionKernels,
        starts: KernelStarts,
        cleanup: Cleanup,
        endings: SessionEndings,
    ) -> None:
        self._store = store
        self._provider = provider
        self._mutations = mutations
        self._lookups = lookups
        self._kernels = kernels
        self._starts = starts
        self._cleanup = cleanup
        self._endings = endings

    # Use cases

    async def update(
        self, session_id: str, patch: SessionPatch, *, force: bool = False
    ) -> LiveSession:
        """Change a session and return it. Values equal to the current ones have no effect.

        A new kernel is started before the session leaves the old one. The old kernel is shut
        down when no other session uses it. With ``force`` it is shut down in any case, and its
        other sessions end.

        Raises SessionNotFound, KernelNotFound for the id of a dead kernel, KernelsUnavailable for
        that of an unknown one, KernelConflict, what starting a kernel raises, StoreError,
        ServiceClosed.
        """
        session = await self._mutations.run(self._update(session_id, patch, force))
        return await self._kernels.present(session)

    async def delete(self, session_id: str, *, force: bool = False) -> None:
        """Remove a session, and shut its kernel down when no other session uses it.

        With ``force`` the kernel is shut down in any case, and its other sessions end.
        Raises SessionNotFound, StoreError, ServiceClosed.
        """
        await self._mutations.run(self._delete(session_id, force))

    async def end_kernel(self, kernel_id: str, session_ids: Collection[str]) -> bool:
        """Shut down a kernel and end its sessions, if these are all its sessions.

        Returns whether this call has ended the kernel. Of several servers that try, one does.
        Raises StoreError, ServiceClosed.
        """
        return await self._mutations.run(self._end_kernel(kernel_id, session_ids))

    # Steps

    async def _update(self, session_id: str, patch: SessionPatch, force: bool) -> Session:
        session, _ = await self._lookups.get(session_id=session_id)
        changes = Changes(
            path=_changed(patch.path, session.path),
            name=_changed(patch.name, session.name),
            type=_changed(patch.type, session.type),
        )
        start_token = None
        if patch.kernel_id is not UNSET:
            if patch.kernel_id != session.kernel_id:
                changes = replace(changes, kernel=await self._kernels.get(patch.kernel_id))
        elif patch.kernel_name is not UNSET:
            start_token = str(uuid.uuid4())
            kernel = await self._start_another(start_token, session, patch.kernel_name)
            changes = replace(changes, kernel=kernel)
        if changes == Changes():
            return session
        release = await self._write(session_id, changes, start_token, force)
        session = release.session
        self._provider.update_env(session.kernel_id, path=session.path, name=session.name)
        return session

    async def _start_another(self, token: str, session: Session, kernel_name: str) -> Kernel:
        # Without a document, because this start is for one session and not to be shared.
        kernel_id = self._starts.choose_id(None)
        await self._starts.acquire(token, None, kernel_id)
        return await self._starts.start(token, session.session_id, session, kernel_name, kernel_id)

    async def _write(
        self, session_id: str, changes: Changes, start_token: str | None, force: bool
    ) -> Release:
        """Write the changes, and shut down the kernel that they detach from the session."""
        stop_token = str(uuid.uuid4())
        try:
            release = await self._write_unless_ended(
                session_id, changes, start_token, stop_token, force
            )
        except StartLost as lost:
            assert start_token is not None
            assert changes.kernel is not UNSET
            await self._cleanup.stop_kernel(start_token, changes.kernel.kernel_id)
            raise StartInProgress(None) from lost
        except Exception as error:
            return await self._after_failed_write(
                error, session_id, changes, start_token, stop_token
            )
        if release.kernel_id is not None:
            await self._cleanup.stop_kernel(stop_token, release.kernel_id)
        return release

    async def _write_unless_ended(
        self,
        session_id: str,
        changes: Changes,
        start_token: str | None,
        stop_token: str,
        force: bool,
    ) -> Release:
        if changes.kernel is not UNSET:
            before = await self._store.find_session(session_id)
            if before is None or await self._kernels.is_dead(before):
                # A read may have reported the session as gone, so it must not come back.
                raise SessionNotFound(session_id=session_id)
        with self._kernels.replacing_kernel(session_id):
            return await self._store.update(
                session_id, changes, start_token=start_token, stop_token=stop_token, force=force
            )

    async def _after_failed_write(
        self,
        error: Exception,
        session_id: str,
        changes: Changes,
        start_token: str | None,
        stop_token: str,
    ) -> Release:
        """Undo the start of a new kernel. Return the session if it was written after all."""
        started = changes.kernel.kernel_id if start_token and changes.kernel is not UNSET else None
        try:
            if start_token is not None:
                await self._cleanup.after_failed_write(error, start_token, started)
        finally:
            if not is_certain(error):
                await self._cleanup.after_failed_write(error, stop_token)
        if is_certain(error):
            raise error
        written = await self._store.find_session(session_id)
        if written is None or changes.applied_to(written) != written:
            raise error
        return Release(session=written, kernel_id=None)

    async def _delete(self, session_id: str, force: bool) -> None:
        token = str(uuid.uuid4())
        try:
            release = await self._store.delete(session_id, stop_token=token, force=force)
        except SessionNotFound:
            # The session ended together with its kernel a moment ago, so a DELETE succeeds.
            if not self._endings.has_ended(session_id):
                raise
        except StoreUncertain as error:
            await self._cleanup.after_failed_write(error, token)
            if await self._store.find_session(session_id) is not None:
                raise
        else:
            if release.kernel_id is not None:
                await self._cleanup.stop_kernel(token, release.kernel_id)

    async def _end_kernel(self, kernel_id: str, session_ids: Collection[str]) -> bool:
        token = str(uuid.uuid4())
        try:
            ended = await self._store.end_kernel(kernel_id, session_ids, stop_token=token)
        except StoreUncertain as error:
            await self._cleanup.after_failed_write(error, token)
            raise
        if ended is None:
            return False
        await self._cleanup.stop_kernel(token, kernel_id)
        for session in ended:
            self._endings.log_ended(session)
        return True


def _changed(new: str | UnsetType, old: str | None) -> str | UnsetType:
    return UNSET if new == old else new
