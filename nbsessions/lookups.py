"""Reads sessions together with their kernels, and has those of dead kernels ended."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from nbsessions.errors import SessionNotFound, StoreError
from nbsessions.kernels.base import KernelProvider
from nbsessions.models import KernelModel, KernelModels, LiveSession, Session, document_of
from nbsessions.stores.base import SessionStore
from nbsessions.tasks import Tasks

_ENDED_KNOWN = 1000
"""How many sessions are remembered that ended with their kernels."""


class Lookups:
    """Sessions as clients see them: without those whose kernel is gone.

    A read never writes: the sessions of dead kernels are left out of the answer, and ended
    behind it.
    """

    def __init__(
        self, store: SessionStore, provider: KernelProvider, *, log: logging.Logger
    ) -> None:
        self._store = store
        self._provider = provider
        self._log = log
        self._changing: Counter[str] = Counter()
        self._ending: set[str] = set()
        self._ended: deque[str] = deque(maxlen=_ENDED_KNOWN)
        self._tasks = Tasks()
        self._closing = False

    async def finish(self, timeout: float) -> None:
        """Begin to end no more sessions, and wait so many seconds at the most for the others."""
        self._closing = True
        await self._tasks.wait(timeout)

    def close(self) -> None:
        """Stop ending sessions."""
        self._closing = True
        self._tasks.cancel()

    async def list_sessions(self) -> Iterable[LiveSession]:
        """Return all sessions, oldest first, with their kernels; to be gone through once."""
        return await self._living(await self._store.list_sessions())

    async def get(self, **columns: str | None) -> LiveSession:
        """Return the oldest session whose columns have these values.

        Columns: session_id, path (normalised before it is compared), name, type, kernel_id.
        Raises SessionNotFound.
        """
        sessions = await self._find_first(columns)
        for live in await self._living(sessions):
            return live
        # The first may be dead, and a read does not write: look past it.
        for live in await self._living(await self._find_all(columns) if sessions else []):
            return live
        raise SessionNotFound(**columns)

    async def _find_first(self, columns: dict[str, str | None]) -> Sequence[Session]:
        session_id, path = columns.get("session_id"), columns.get("path")
        if path is not None and len(columns) == 1:
            session = await self._store.find_by_document(document_of(path) or "")
        elif session_id is not None and len(columns) == 1:
            session = await self._store.find_session(session_id)
        else:
            return await self._find_all(columns)
        return [] if session is None else [session]

    async def _find_all(self, columns: dict[str, str | None]) -> Sequence[Session]:
        wanted = dict(columns)
        if "path" in wanted:
            wanted["document"] = document_of(wanted.pop("path"))
        return [
            session
            for session in await self._store.list_sessions()
            if all(getattr(session, column) == value for column, value in wanted.items())
        ]

    async def _living(self, sessions: Sequence[Session]) -> Iterable[LiveSession]:
        """Leave out the sessions whose kernel is gone, and have them ended behind the read."""
        kernel_ids = [session.kernel_id for session in sessions]
        models = await self._provider.models(kernel_ids)
        answers = list(map(models.alive.get, kernel_ids))
        if all(answers):
            return zip(sessions, answers, strict=True)  # type: ignore[arg-type]
        living, dead = [], set()
        for session, model in self._judge(sessions, models):
            if model is None:
                dead.add(session.kernel_id)
            else:
                living.append((session, model))
        self.end_later(dead)
        return living

    async def resolve(
        self, sessions: Sequence[Session]
    ) -> Sequence[tuple[Session, KernelModel | None]]:
        """Pair each session with the model of its kernel, None when that is dead.

        A kernel is dead when the provider that the session names says so. Of one that cannot
        be asked about, the last known model is given, with the execution_state "unknown".
        """
        models = await self._provider.models([session.kernel_id for session in sessions])
        return list(self._judge(sessions, models))

    def _judge(
        self, sessions: Sequence[Session], models: KernelModels
    ) -> Iterator[tuple[Session, KernelModel | None]]:
        for session in sessions:
            model = models.alive.get(session.kernel_id)
            if model is None and (
                session.session_id in self._changing or not self._has_died(session, models)
            ):
                last_known = models.unknown.get(session.kernel_id) or _skeleton(session)
                model = {**last_known, "execution_state": "unknown"}
            yield session, model

    def _has_died(self, session: Session, models: KernelModels) -> bool:
        return models.is_dead(session.kernel_id) and self._provider.judges(session.provider)

    async def present(self, session: Session) -> LiveSession:
        """Pair the session with its kernel's model, even when that died a moment ago."""
        ((session, model),) = await self.resolve([session])
        return session, model or {**_skeleton(session), "execution_state": "dead"}

    async def is_dead(self, session: Session) -> bool:
        """Return whether the session's kernel is gone."""
        return self._has_died(session, await self._provider.models([session.kernel_id]))

    @contextmanager
    def changing(self, session_id: str) -> Iterator[None]:
        """Within, show the session also when the kernel has died that it is about to leave.

        For a kernel that was seen alive just before: no read has called the session gone.
        """
        self._changing[session_id] += 1
        try:
            yield
        finally:
            self._changing -= Counter([session_id])

    def end_later(self, kernel_ids: Collection[str]) -> None:
        """End the sessions of those of the kernels that are dead, behind the caller."""
        kernel_ids = set(kernel_ids) - self._ending
        if kernel_ids and not self._closing:
            self._ending.update(kernel_ids)
            self._tasks.spawn(self._end_unnoticed(kernel_ids))

    async def _end_unnoticed(self, kernel_ids: Collection[str]) -> None:
        try:
            await self.end_kernels(kernel_ids)
        except StoreError as error:
            self._log.debug("Sessions of dead kernels are ended at a later look: %s", error)
        finally:
            self._ending.difference_update(kernel_ids)

    async def end_kernels(self, kernel_ids: Collection[str]) -> None:
        """End the sessions of those of the kernels that are dead. Raises StoreError."""
        sessions = await self._store.list_sessions()
        concerned = [session for session in sessions if session.kernel_id in kernel_ids]
        # Those and no others: a kernel may be started anew under its id meanwhile.
        dead = [session for session, model in await self.resolve(concerned) if model is None]
        if dead:
            for session in await self._store.end_sessions(dead):
                self.log_ended(session)

    def has_ended(self, session_id: str) -> bool:
        """Return whether the session ended of late because of its kernel."""
        return session_id in self._ended

    def log_ended(self, session: Session) -> None:
        """Say in the log that a session ended because of its kernel."""
        self._ended.append(session.session_id)
        self._log.info(
            "Session %s of %r ended: its kernel %s is gone",
            session.session_id,
            session.path,
            session.kernel_id,
        )


def _skeleton(session: Session) -> dict[str, Any]:
    """Return what is known of a kernel without asking anybody."""
    return {
        "id": session.kernel_id,
        "name": session.kernel_name or "",
        "last_activity": session.last_activity.isoformat().replace("+00:00", "Z"),
        "connections": 0,
    }
