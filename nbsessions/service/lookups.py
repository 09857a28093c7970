"""Lists and finds sessions with the models of their kernels, and tells why others are gone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import attrgetter

from nbsessions.errors import SessionNotFound
from nbsessions.models import Ending, EndReason, LiveSession, Session, document_of
from nbsessions.service.ending import SessionEndings
from nbsessions.service.kernels import SessionKernels
from nbsessions.stores.base import SessionStore


class Lookups:
    """The sessions as clients see them, without those whose kernels are dead.

    A read never writes. It leaves out the sessions of dead kernels, and they are ended in the
    background.
    """

    def __init__(
        self, store: SessionStore, kernels: SessionKernels, endings: SessionEndings
    ) -> None:
        self._store = store
        self._kernels = kernels
        self._endings = endings

    async def list_sessions(self, **columns: str | None) -> Iterable[LiveSession]:
        """Return the sessions with their kernels, oldest first. It can be iterated once.

        With columns, only the sessions with these values. Columns: session_id, path (normalised
        before it is compared), name, type, kernel_id.
        """
        return await self.living(await self._find(columns))

    async def living(self, sessions: Sequence[Session]) -> Iterable[LiveSession]:
        """Return those of the sessions whose kernels are not dead. It can be iterated once."""
        living, dead = [], set()
        for session, model in await self._kernels.pair(sessions):
            if model is None:
                dead.add(session.kernel_id)
            else:
                living.append((session, model))
        self._endings.end_later(dead)
        return living

    async def list_kernels(self) -> dict[str, set[str]]:
        """Return the ids of all sessions by the id of their kernel, which may be dead."""
        found: dict[str, set[str]] = {}
        for session in await self._store.list_sessions():
            found.setdefault(session.kernel_id, set()).add(session.session_id)
        return found

    async def get(self, **columns: str | None) -> LiveSession:
        """Return the first session that ``list_sessions`` returns. Raises SessionNotFound."""
        found = await self._find(columns)
        # The oldest session may have a dead kernel. A read does not remove such a session.
        for sessions in (found[:1], found[1:]):
            for live in await self.living(sessions):
                return live
        raise SessionNotFound(**columns)

    async def find_missing(
        self, session_ids: Collection[str]
    ) -> Sequence[tuple[str, Ending | None]]:
        """Return those of the sessions that this server does not serve now, and why.

        The ending is None if the reason is not known: the session was never here, was deleted by
        a client, or ended long ago. Raises StoreError.
        """
        asked = dict.fromkeys(session_ids)
        sessions = await self._store.list_sessions()
        concerned = [session for session in sessions if session.session_id in asked]
        served = {session.session_id for session, _ in await self.living(concerned)}
        missing = [session_id for session_id in asked if session_id not in served]
        dead = {
            session.session_id: Ending(session_id=session.session_id, reason=EndReason.ENDED)
            for session in concerned
        }
        others = [session_id for session_id in missing if session_id not in dead]
        endings = {**dead, **(await self._store.find_endings(others) if others else {})}
        return [(session_id, endings.get(session_id)) for session_id in missing]

    async def _find(self, columns: Mapping[str, str | None]) -> Sequence[Session]:
        """Return the sessions with these values, oldest first."""
        found = await self._candidates(columns)
        for column, value in columns.items():
            if column == "path":
                column, value = "document", document_of(value)
            value_of = attrgetter(column)
            found = [session for session in found if value_of(session) == value]
        return found

    async def _candidates(self, columns: Mapping[str, str | None]) -> Sequence[Session]:
        """Return all sessions that may have these values, oldest first."""
        session_id, kernel_id = columns.get("session_id"), columns.get("kernel_id")
        document = document_of(columns.get("path"))
        if session_id is not None:
            session = await self._store.find_session(session_id)
            return [] if session is None else [session]
        if document is not None:
            return await self._store.list_by_document(document)
        if kernel_id is not None:
            return await self._store.list_by_kernel(kernel_id)
        return await self._store.list_sessions()
