"""Creates sessions with a shared or a new kernel, or returns existing sessions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable

from nbsessions.errors import (
    KernelConflict,
    SessionError,
    StartInProgress,
    StartLost,
    StoreUncertain,
)
from nbsessions.kernels.base import KernelProvider
from nbsessions.models import Kernel, LiveSession, NewSession, Session, Sharing, utcnow
from nbsessions.service.adopting import Adopting
from nbsessions.service.cleanup import Cleanup
from nbsessions.service.ending import SessionEndings
from nbsessions.service.joining import RunningCreations
from nbsessions.service.kernels import SessionKernels
from nbsessions.service.mutations import Mutations
from nbsessions.service.placeholders import Placeholders
from nbsessions.service.renaming import Renaming
from nbsessions.service.sharing import RunningStarts, sharing_of
from nbsessions.service.starting import KernelStarts
from nbsessions.stores.base import SessionStore


class Creating:
    """Creates sessions, with new kernels or for kernels that are running already."""

    def __init__(
        self,
        store: SessionStore,
        provider: KernelProvider,
        mutations: Mutations,
        running: RunningCreations,
        kernels: SessionKernels,
        starts: KernelStarts,
        cleanup: Cleanup,
        endings: SessionEndings,
        placeholders: Placeholders,
        renaming: Renaming,
        adopting: Adopting,
        *,
        scope: str,
        log: logging.Logger,
    ) -> None:
        """``scope``: the scope that new sessions get."""
        self._store = store
        self._provider = provider
        self._scope = scope
        self._mutations = mutations
        self._running = running
        self._kernels = kernels
        self._starts = starts
        self._shared = RunningStarts(mutations)
        self._cleanup = cleanup
        self._endings = endings
        self._placeholders = placeholders
        self._renaming = renaming
        self._adopting = adopting
        self._log = log

    # Use cases

    async def create(self, request: NewSession) -> LiveSession:
        """Return the session of the document. If there is none, create it with its kernel.

        Concurrent requests for one document start one kernel, and all get the same session.
        A request without a path always gets a new session.

        Raises what starting a kernel raises (see KernelProvider.start), KernelConflict,
        StartInProgress, StoreError, ServiceClosed.
        """
        await self._renaming.wait()
        if request.document is None:
            session = await self._mutations.run(self._create(request))
        else:
            session = await self._running.join(request.document, request, self._create)
        if request.kernel_id not in (None, session.kernel_id):
            self._log.warning(
                "The request for %r asked for kernel %s, but it was answered with session %s, "
                "which has kernel %s",
                request.path,
                request.kernel_id,
                session.session_id,
                session.kernel_id,
            )
        return await self._kernels.present(session)

    async def save(self, session_id: str, request: NewSession) -> LiveSession:
        """Create a session under this id for a kernel that is running already.

        Other sessions of the path stay as they are. Raises KernelNotFound, KernelConflict,
        InvalidRequest when the id is taken, StoreError, ServiceClosed.
        """
        session = await self._mutations.run(self._save(session_id, request))
        return await self._kernels.present(session)

    async def start_kernel(self, request: NewSession, session_id: str) -> Kernel:
        """Start a kernel that the caller manages, or return the one with the requested id.

        No session is created for it.
        """
        kernel_id = self._kernels.addressable(request.kernel_id)
        if kernel_id is not None:
            running = await self._kernels.find(kernel_id)
            if running is not None:
                return running
        kernel_id, token = self._starts.choose_id(kernel_id), str(uuid.uuid4())
        return await self._mutations.run(
            self._starts.start(token, session_id, request, request.kernel_name, kernel_id)
        )

    # Steps

    async def _create(self, request: NewSession) -> Session:
        session = await self._find_or_create(request)
        if await self._kernels.is_dead(session):
            # The existing session has a dead kernel. End it and create a new one.
            await self._endings.end([session.kernel_id])
            session = await self._find_or_create(request)
        self._placeholders.watch(session)
        return session

    async def _save(self, session_id: str, request: NewSession) -> Session:
        kernel = await self._kernels.get(request.kernel_id or "")
        session = self._new_session(request, kernel, session_id)
        return await self._written(session, self._store.insert(session))

    async def _find_or_create(self, request: NewSession) -> Session:
        count = self._adopting.count
        existing = await self._find(request.document)
        if existing is None:
            await self._adopting.look()
            if self._adopting.count > count:
                existing = await self._find(request.document)
        if existing is not None:
            return existing
        kernel_id = self._kernels.addressable(request.kernel_id)
        if kernel_id is not None:
            kernel = await self._kernels.find(kernel_id)
            if kernel is not None:
                return await self._attach(request, kernel)
            # A new kernel can use the id once no session refers to the dead kernel any more.
            await self._endings.end([kernel_id])
        return await self._share_or_start(request, kernel_id)

    async def _find(self, document: str | None) -> Session | None:
        found = () if document is None else await self._store.list_by_document(document)
        return next(iter(found), None)

    async def _share_or_start(self, request: NewSession, kernel_id: str | None) -> Session:
        sharing = sharing_of(request, kernel_id, self._provider.default_kernel_name)
        if sharing is None:
            return await self._create_with_kernel(request, kernel_id)
        return await self._share_adopted(request, sharing) or await self._shared.run(
            sharing, lambda: self._create_with_kernel(request, None, sharing)
        )

    async def _share_adopted(self, request: NewSession, sharing: Sharing) -> Session | None:
        """Attach to the kernel of the document's session if both were taken over just now.

        A client that knew the session would have used it. Before that, it was not listed here.
        """
        recent = self._adopting.list_recent()
        found = await self._find(sharing.document) if recent else None
        if found is None or found.kernel_id not in recent:
            return None
        same_kernel = found.kernel_name == sharing.kernel_name
        return await self._share(request, found.kernel) if same_kernel else None

    async def _share(self, request: NewSession, kernel: Kernel) -> Session | None:
        """Attach to the kernel that was started for another session of the document.

        Returns None if it is dead, or was shut down meanwhile.
        """
        if await self._kernels.is_dead(kernel):
            await self._endings.end([kernel.kernel_id])
            return None
        try:
            return await self._attach(request, kernel)
        except KernelConflict:
            return None

    async def _attach(self, request: NewSession, kernel: Kernel) -> Session:
        session = self._new_session(request, kernel)
        return await self._written(session, self._store.attach(session))

    async def _create_with_kernel(
        self, request: NewSession, kernel_id: str | None, sharing: Sharing | None = None
    ) -> Session:
        token, kernel_id = str(uuid.uuid4()), self._starts.choose_id(kernel_id)
        while (
            found := await self._starts.acquire(token, request.document, kernel_id, sharing)
        ) is not None:
            if isinstance(found, Session):
                return found
            shared = await self._share(request, found)
            if shared is not None:
                return shared
        return await self._start(token, request, kernel_id, sharing)

    async def _start(
        self, token: str, request: NewSession, kernel_id: str | None, sharing: Sharing | None
    ) -> Session:
        """Start a kernel under the intent, and return the session that replaces the intent."""
        session_id = str(uuid.uuid4())
        committing: asyncio.Task[Session] | None = None

        def commit(kernel: Kernel, *, urgent: bool = False) -> asyncio.Task[Session]:
            nonlocal committing
            if committing is None:
                session = self._new_session(request, kernel, session_id)
                committing = self._mutations.spawn(
                    self._store.commit(token, session, sharing=sharing, urgent=urgent)
                )
            return committing

        try:
            # If the provider tells of the launch, the session is written while the start goes on.
            # It is not urgent then: jupyter_client pauses, and an event loop that is woken in a
            # pause rounds up what is left of it to whole milliseconds.
            kernel = await self._starts.start(
                token, session_id, request, request.kernel_name, kernel_id, commit
            )
        except BaseException:
            if committing is not None:
                await self._take_back(committing)
            raise
        try:
            committing = commit(kernel, urgent=True)
            await asyncio.sleep(0)  # It may not have reached the store yet.
            self._store.hurry()
            return await committing
        except StartLost as lost:
            await self._cleanup.stop_kernel(token, kernel.kernel_id)
            if lost.winner is None:
                raise StartInProgress(request.path) from lost
            return lost.winner
        except Exception as error:
            await self._cleanup.after_failed_write(error, token, kernel.kernel_id)
            written = await self._store.find_session(session_id)
            if written is None:
                raise
            return written

    async def _take_back(self, committing: Awaitable[Session]) -> None:
        """End a session that was written before the start of its kernel failed.

        If this fails, too, it is ended as that of any dead kernel, once somebody reads it.
        """
        with contextlib.suppress(SessionError):
            session = await committing
            await self._endings.end([session.kernel_id])

    async def _written(self, session: Session, write: Awaitable[Session]) -> Session:
        """Return the result of the write. If it is uncertain, check whether it succeeded."""
        try:
            return await write
        except StoreUncertain:
            written = await self._store.find_session(session.session_id)
            if written is None:
                raise
            return written

    def _new_session(
        self, request: NewSession, kernel: Kernel, session_id: str | None = None
    ) -> Session:
        now = utcnow()
        return Session(
            session_id=session_id or str(uuid.uuid4()),
            path=request.path,
            name=request.name,
            type=request.type,
            kernel_id=kernel.kernel_id,
            kernel_name=kernel.kernel_name,
            provider=kernel.provider,
            scope=self._scope,
            created=now,
            last_activity=now,
        )
