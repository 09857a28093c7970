"""Reads sessions together with their kernels, and has those of dead kernels ended."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from nbsessions.errors import SessionNotFound, StoreError
from nbsessions.kernels.base import KernelProvider
from nbsessions.models import KernelModel, KernelModels, LiveSession, Session, document_of
from nbsessions.stores.base import SessionStore
from nbsessions.tasks import Tasks


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
        self._ending: set[str] = set()
        self._tasks = Tasks()

    def close(self) -> None:
        """Stop ending sessions."""
        self._tasks.cancel()

    async def list_sessions(self) -> Sequence[LiveSession]:
        """Return all sessions, oldest first, with their kernels."""
        return await self._living(await self._store.list_sessions())

    async def get(self, **columns: str | None) -> LiveSession:
        """Return the oldest session whose columns have these values.

        Columns: session_id, path (normalised before it is compared), name, type, kernel_id.
        Raises SessionNotFound.
        """
        sessions = await self._find_first(columns)
        living = await self._living(sessions)
        if sessions and not living:
            # The first is dead, and a read does not write: look past it.
            living = await self._living(await self._find_all(columns))
        if not living:
            raise SessionNotFound(**columns)
        return living[0]

    async def _find_first(self, columns: dict[str, str | None]) -> Sequence[Session]:
        session = None
        if columns.keys() == {"session_id"} and columns["session_id"] is not None:
            session = await self._store.find_session(columns["session_id"])
        elif columns.keys() == {"path"} and columns["path"] is not None:
            session = await self._store.find_by_document(columns["path"].strip("/"))
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

    async def _living(self, sessions: Sequence[Session]) -> Sequence[LiveSession]:
        """Leave out the sessions whose kernel is gone, and have them ended behind the read."""
        kernel_ids = [session.kernel_id for session in sessions]
        models = await self._provider.models(kernel_ids)
        answers = list(map(models.alive.get, kernel_ids))
        if all(answers):
            return list(zip(sessions, answers, strict=True))  # type: ignore[arg-type]
        living, dead = [], set()
        for session, model in self._judge(sessions, models):
            if model is None:
                dead.add(session.kernel_id)
            else:
                living.append((session, model))
        self._end_later(dead - self._ending)
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
            if model is None and not (
                models.is_dead(session.kernel_id) and self._provider.judges(session.provider)
            ):
                last_known = models.unknown.get(session.kernel_id) or _skeleton(session)
                model = {**last_known, "execution_state": "unknown"}
            yield session, model

    async def present(self, session: Session) -> LiveSession:
        """Pair the session with its kernel's model, even when that died a moment ago."""
        ((session, model),) = await self.resolve([session])
        return session, model or {**_skeleton(session), "execution_state": "dead"}

    async def is_dead(self, session: Session) -> bool:
        """Return whether the session's kernel is gone."""
        ((_, model),) = await self.resolve([session])
        return model is None

    def _end_later(self, kernel_ids: Collection[str]) -> None:
        if kernel_ids:
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
        models = await self._provider.models(list(kernel_ids))
        dead = [kernel_id for kernel_id in kernel_ids if models.is_dead(kernel_id)]
        for session in await self._store.end_kernels(dead):
            self.log_ended(session)

    def log_ended(self, session: Session) -> None:
        """Say in the log that a session ended because of its kernel."""
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
