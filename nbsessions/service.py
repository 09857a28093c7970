"""The use cases of sessions: what happens in which order, and how it is undone.

Starts and stops of kernels are written down as intents before they happen, so that whatever
is cut short can be found and finished, by this process or by the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable, Coroutine, Iterable
from dataclasses import replace
from typing import Any, TypeVar

from nbsessions.errors import (
    KernelConflict,
    KernelNotFound,
    ServiceClosed,
    SessionError,
    SessionNotFound,
    StartInProgress,
    StartLost,
    StoreError,
    StoreUncertain,
)
from nbsessions.kernels.base import KernelProvider, StartRequest
from nbsessions.lookups import Lookups
from nbsessions.models import (
    UNSET,
    Changes,
    Kernel,
    LiveSession,
    NewSession,
    Owner,
    Release,
    Session,
    SessionPatch,
    Unset,
    document_of,
    is_within,
    utcnow,
)
from nbsessions.placeholders import Placeholders
from nbsessions.recovery import Recovery
from nbsessions.renaming import Renames
from nbsessions.settling import Settler, is_certain
from nbsessions.sharing import RecentStarts, sharing_key
from nbsessions.starting import KernelStarts
from nbsessions.stores.base import SessionStore
from nbsessions.tasks import Tasks

T = TypeVar("T")

HEARTBEAT_INTERVAL = 600.0
"""Seconds between two signs of life in the store."""

LOOK_INTERVAL = 5.0
"""Seconds between two looks at the store and at what others have left in it."""

_STOP_TIMEOUT = 5.0


class SessionService:
    """Sessions of one server: a store, a kernel provider, and the order between them.

    Used on one event loop. Every mutation is a task of the service: a caller that is
    cancelled leaves it running, so it is done whole or undone whole.
    """

    def __init__(
        self, store: SessionStore, provider: KernelProvider, *, owner: Owner, log: logging.Logger
    ) -> None:
        self._store = store
        self._provider = provider
        self._owner = owner
        self._log = log
        self._lookups = Lookups(store, provider, log=log)
        self._settler = Settler(store, provider, log=log)
        self._starts = KernelStarts(store, provider, self._settler, scope=owner.owner_id)
        self._mutations = Tasks()
        self._looks = Tasks()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next_look: asyncio.TimerHandle | None = None
        self._heard = 0.0
        """When the last sign of life was written, by the clock of the event loop."""
        self._recent = RecentStarts(self._mutate)
        self._placeholders = Placeholders(store, provider, self.delete, log=log)
        self._renames = Renames(store, provider, self._mutate, log=log)
        self._creating: dict[str, tuple[NewSession, asyncio.Task[Session]]] = {}
        self._recovery = Recovery(store, provider, self._settler, self._lookups, log=log)
        self._is_store_open = False
        self._closing = False

    # Life

    async def open(self) -> None:
        """Open the store and settle what dead owners left.

        Raises StoreError: then nothing is served, and it is to be called again. What others
        have left may be the sessions of kernels that are here by now.
        """
        if not self._is_store_open:
            await self._store.open(self._owner)
            self._is_store_open = True
        await self._recovery.run()
        sessions = await self._store.list_sessions()
        self._recovery.log_kernels_without(sessions)
        self._placeholders.watch_again(sessions)
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._provider.watch(self._kernel_ended)
        self._look_later()

    async def stop(self) -> None:
        """Take no new work, and give what is running a few seconds to finish.

        What takes longer undoes itself when it continues. Call this while kernels can still
        be reached, and ``close`` when they are down.
        """
        self._closing = True
        await self._mutations.wait(_STOP_TIMEOUT)
        await self._lookups.finish(_STOP_TIMEOUT)
        self._starts.closing = True
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._settler.finish(), _STOP_TIMEOUT)

    def close(self) -> None:
        """Remove the sessions whose kernels are down, and let go of the store. Idempotent."""
        self._closing = self._starts.closing = True
        if self._next_look is not None:
            self._next_look.cancel()
        self._looks.cancel()
        self._placeholders.close()
        self._settler.close()
        self._lookups.close()
        self._store.close(held=self._provider.list_held())

    def _look_later(self) -> None:
        # A timer rather than a task that sleeps: nothing is left pending when the loop ends.
        loop = asyncio.get_running_loop()
        self._next_look = loop.call_later(LOOK_INTERVAL, self._look)

    def _look(self) -> None:
        self._looks.spawn(self._look_after_the_store())

    async def _look_after_the_store(self) -> None:
        now = asyncio.get_running_loop().time()
        try:
            if now - self._heard >= HEARTBEAT_INTERVAL:
                await self._store.heartbeat()
                self._heard = now
            await self._store.ensure_intact()
            # An owner may be proven dead, or its kernels to have ended, only by now.
            self._placeholders.watch_again(await self._recovery.run())
        except StoreError as error:
            self._log.debug("The store is looked after later: %s", error)
        finally:
            if not self._closing:
                self._look_later()

    # Reads

    async def list_sessions(self) -> Iterable[LiveSession]:
        """Return all sessions, oldest first, with their kernels; to be gone through once."""
        return await self._lookups.list_sessions()

    async def get(self, **columns: str | None) -> LiveSession:
        """Return the oldest session with these values; see Lookups.get."""
        return await self._lookups.get(**columns)

    # Create

    async def create(self, request: NewSession) -> LiveSession:
        """Return the session of the document; if there is none, create it with its kernel.

        However many ask at once for one document, one kernel is started and all get the same
        session. Requests without a path are never joined to anything.

        Raises what starting a kernel raises (see KernelProvider.start), KernelConflict,
        StartInProgress, StoreError, ServiceClosed.
        """
        await self._renames.settled()
        if request.document is None:
            session = await self._run(self._create(request))
        else:
            session = await self._create_joined(request, request.document)
        if request.kernel_id not in (None, session.kernel_id):
            self._log.warning(
                "Kernel id %r, asked for by a request for %r, is not used: session %s has "
                "kernel %s",
                request.kernel_id,
                request.path,
                session.session_id,
                session.kernel_id,
            )
        return await self._lookups.present(session)

    async def _create_joined(self, request: NewSession, document: str) -> Session:
        while document in self._creating:
            first, task = self._creating[document]
            try:
                return await asyncio.shield(task)
            except SessionError:
                # Its error is ours only if it wanted the same.
                if first == request:
                    raise
        if self._closing:
            raise ServiceClosed
        task = self._mutate(self._create(request))
        self._creating[document] = (request, task)
        task.add_done_callback(lambda _: self._creating.pop(document))
        return await asyncio.shield(task)

    async def _create(self, request: NewSession) -> Session:
        session = await self._find_or_create(request)
        if await self._lookups.is_dead(session):
            # Found, but its kernel is gone: what comes now is new.
            await self._lookups.end_kernels([session.kernel_id])
            session = await self._find_or_create(request)
        self._placeholders.watch(session)
        return session

    async def _find_or_create(self, request: NewSession) -> Session:
        if request.document is not None:
            existing = await self._store.find_by_document(request.document)
            if existing is not None:
                return existing
        kernel_id = self._addressable(request.kernel_id)
        if kernel_id is not None:
            kernel = await self._find_kernel(kernel_id)
            if kernel is not None:
                session = self._new_session(request, kernel)
                return await self._kept(session, self._store.attach(session))
            # A session that still names the dead kernel would bar its id.
            await self._lookups.end_kernels([kernel_id])
        key = sharing_key(request, kernel_id, self._provider.default_kernel_name)
        if key is None:
            return await self._create_with_kernel(request, kernel_id)
        while (start := self._recent.find(key)) is not None:
            shared = await self._share(request, await asyncio.shield(start.task))
            if shared is not None:
                return shared
            self._recent.forget(key, start)
        return await asyncio.shield(
            self._recent.begin(key, self._create_with_kernel(request, None))
        )

    async def _share(self, request: NewSession, first: Session) -> Session | None:
        """Attach to the kernel that was started for another session of the document.

        None when that was let go meanwhile, or went to another document.
        """
        holders = [
            each
            for each in await self._store.list_sessions()
            if each.kernel_id == first.kernel_id and each.named_document == request.named_document
        ]
        if not holders or await self._lookups.is_dead(holders[0]):
            return None
        kernel = Kernel(
            kernel_id=first.kernel_id, kernel_name=first.kernel_name, provider=first.provider
        )
        session = self._new_session(request, kernel)
        try:
            return await self._kept(session, self._store.attach(session))
        except KernelConflict:
            return None

    async def _create_with_kernel(self, request: NewSession, kernel_id: str | None) -> Session:
        session_id = str(uuid.uuid4())
        token = str(uuid.uuid4())
        existing = await self._starts.acquire(token, request.document, kernel_id)
        if existing is not None:
            return existing
        kernel = await self._starts.start(
            start_request(token, session_id, request, request.kernel_name, kernel_id)
        )
        session = self._new_session(request, kernel, session_id)
        try:
            return await self._store.commit(token, session)
        except StartLost as lost:
            await self._settler.stop_kernel(token, kernel.kernel_id)
            if lost.winner is None:
                raise StartInProgress(request.path) from lost
            return lost.winner
        except Exception as error:
            await self._settler.after_failure(error, token, kernel.kernel_id)
            kept = await self._store.find_session(session_id)
            if kept is None:
                raise
            return kept

    async def save(self, session_id: str, request: NewSession) -> LiveSession:
        """Create a session under this id for a kernel that runs already.

        Whatever else holds the path stays. Raises KernelNotFound, KernelConflict,
        InvalidRequest when the id is taken, StoreError, ServiceClosed.
        """
        session = await self._run(self._save(session_id, request))
        return await self._lookups.present(session)

    async def _save(self, session_id: str, request: NewSession) -> Session:
        kernel = await self._require_kernel(request.kernel_id or "")
        session = self._new_session(request, kernel, session_id)
        return await self._kept(session, self._store.insert(session))

    async def _kept(self, session: Session, write: Awaitable[Session]) -> Session:
        """Await the write of a session; of one that is uncertain, find out if it was kept."""
        try:
            return await write
        except StoreUncertain:
            kept = await self._store.find_session(session.session_id)
            if kept is None:
                raise
            return kept

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
            scope=self._owner.owner_id,
            created=now,
            last_activity=now,
        )

    # Update

    async def update(
        self, session_id: str, patch: SessionPatch, *, force: bool = False
    ) -> LiveSession:
        """Change a session and return it. What is set to what it is already is no change.

        A new kernel is up before the old one is let go, which is shut down when no other
        session holds it; with ``force`` in any case, and its other sessions end.

        Raises SessionNotFound, KernelNotFound for an unknown kernel id, KernelConflict, what
        starting a kernel raises, StoreError, ServiceClosed.
        """
        session = await self._run(self._update(session_id, patch, force))
        return await self._lookups.present(session)

    async def _update(self, session_id: str, patch: SessionPatch, force: bool) -> Session:
        session, _ = await self.get(session_id=session_id)
        changes = Changes(
            path=_changed(patch.path, session.path),
            name=_changed(patch.name, session.name),
            type=_changed(patch.type, session.type),
        )
        start_token = None
        if patch.kernel_id is not UNSET:
            if patch.kernel_id != session.kernel_id:
                changes = replace(changes, kernel=await self._require_kernel(patch.kernel_id))
        elif patch.kernel_name is not UNSET:
            start_token = str(uuid.uuid4())
            kernel = await self._start_another(start_token, session, patch.kernel_name)
            changes = replace(changes, kernel=kernel)
        if changes == Changes():
            return session
        return await self._apply(session_id, changes, start_token, force)

    async def _start_another(self, token: str, session: Session, kernel_name: str) -> Kernel:
        # Without a document: this start is for one session and shared with nobody.
        await self._starts.acquire(token, None, None)
        return await self._starts.start(
            start_request(token, session.session_id, session, kernel_name)
        )

    async def _apply(
        self, session_id: str, changes: Changes, start_token: str | None, force: bool
    ) -> Session:
        started = changes.kernel.kernel_id if start_token and changes.kernel is not UNSET else None
        stop_token = str(uuid.uuid4())
        try:
            if changes.kernel is not UNSET:
                before = await self._store.find_session(session_id)
                if before is None or await self._lookups.is_dead(before):
                    # Reads may have called it gone, so it does not come back.
                    raise SessionNotFound(session_id=session_id)
            with self._lookups.changing(session_id):
                release = await self._store.update(
                    session_id,
                    changes,
                    start_token=start_token,
                    stop_token=stop_token,
                    force=force,
                )
        except StartLost as lost:
            assert start_token is not None
            assert started is not None
            await self._settler.stop_kernel(start_token, started)
            raise StartInProgress(None) from lost
        except Exception as error:
            try:
                if start_token is not None:
                    await self._settler.after_failure(error, start_token, started)
            finally:
                if not is_certain(error):
                    await self._settler.after_failure(error, stop_token)
            if is_certain(error):
                raise
            kept = await self._store.find_session(session_id)
            if kept is None or changes.applied_to(kept) != kept:
                raise
            release = Release(session=kept, kernel_id=None)
        if release.kernel_id is not None:
            await self._settler.stop_kernel(stop_token, release.kernel_id)
        session = release.session
        self._provider.update_env(session.kernel_id, path=session.path, name=session.name)
        return session

    async def rename(self, old_path: str, new_path: str) -> None:
        """Have the sessions of a file, or of all files in a folder, follow it to its new path.

        Whatever else holds a new path stays. When the service is closing: nothing. Raises
        StoreError.
        """
        old, new = document_of(old_path), document_of(new_path)
        if old and new and not self._closing:
            creating = [task for path, (_, task) in self._creating.items() if is_within(path, old)]
            await self._run(self._renames.rename(old, new, creating))

    # Delete

    async def delete(self, session_id: str, *, force: bool = False) -> None:
        """Remove a session, and shut its kernel down when no other session holds it.

        With ``force`` the kernel is shut down in any case, and its other sessions end.
        Raises SessionNotFound, StoreError, ServiceClosed.
        """
        await self._run(self._delete(session_id, force))

    async def _delete(self, session_id: str, force: bool) -> None:
        token = str(uuid.uuid4())
        try:
            release = await self._store.delete(session_id, stop_token=token, force=force)
        except SessionNotFound:
            # Who asks to end what has ended with its kernel a moment ago has what they want.
            if not self._lookups.has_ended(session_id):
                raise
        except StoreUncertain as error:
            await self._settler.after_failure(error, token)
            if await self._store.find_session(session_id) is not None:
                raise
        else:
            if release.kernel_id is not None:
                await self._settler.stop_kernel(token, release.kernel_id)

    # Kernels

    async def start_kernel(self, request: NewSession, session_id: str) -> Kernel:
        """Start a kernel that the caller looks after; no session is made for it."""
        kernel_id = self._addressable(request.kernel_id)
        return await self._run(
            self._starts.start(
                start_request(
                    str(uuid.uuid4()), session_id, request, request.kernel_name, kernel_id
                )
            )
        )

    def _addressable(self, kernel_id: str | None) -> str | None:
        """Return the id that a client asks for, if a kernel of it could be reached."""
        return kernel_id if kernel_id and self._provider.can_address(kernel_id) else None

    def _kernel_ended(self, kernel_id: str) -> None:
        # Servers may end their kernels when their event loop has stopped.
        loop = self._loop
        if loop is not None and loop.is_running():
            loop.call_soon_threadsafe(self._lookups.end_later, [kernel_id])

    async def has_kernel(self, kernel_id: str) -> bool:
        """Return whether the kernel is not known to be gone."""
        return await self._find_kernel(kernel_id) is not None

    async def _find_kernel(self, kernel_id: str) -> Kernel | None:
        models = await self._provider.models([kernel_id])
        if models.is_dead(kernel_id):
            return None
        model = models.alive.get(kernel_id) or models.unknown.get(kernel_id) or {}
        return Kernel(
            kernel_id=kernel_id, kernel_name=model.get("name"), provider=self._provider.name
        )

    async def _require_kernel(self, kernel_id: str) -> Kernel:
        kernel = await self._find_kernel(kernel_id)
        if kernel is None:
            raise KernelNotFound(kernel_id)
        return kernel

    # Tasks

    async def _run(self, operation: Coroutine[Any, Any, T]) -> T:
        """Run a mutation as a task of the service, which outlives its caller."""
        if self._closing:
            operation.close()
            raise ServiceClosed
        return await asyncio.shield(self._mutate(operation))

    def _mutate(self, operation: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self._mutations.spawn(operation)
        # Its error is for those who await it; when they were all cancelled, it is nobody's.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task


def start_request(
    token: str,
    session_id: str,
    about: NewSession | Session,
    kernel_name: str | None,
    kernel_id: str | None = None,
) -> StartRequest:
    """Return what a kernel for this session is started with."""
    return StartRequest(
        token=token,
        session_id=session_id,
        kernel_name=kernel_name,
        kernel_id=kernel_id,
        path=about.path,
        name=about.name,
        type=about.type,
    )


def _changed(new: str | Unset, old: str | None) -> str | Unset:
    return UNSET if new == old else new
