"""A session store that lives and dies with the process."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace

from nbsessions.errors import (
    InvalidRequest,
    KernelConflict,
    SessionNotFound,
    StartInProgress,
    StartLost,
    StoreUnavailable,
)
from nbsessions.models import (
    UNSET,
    Changes,
    Intent,
    Orphans,
    Owner,
    Release,
    Session,
    Verb,
    utcnow,
)
from nbsessions.stores.base import ENDED_KEPT_FOR, START_LEASE, SessionStore
from nbsessions.stores.cache import SessionCache


def store_from_url(url: str, *, namespace: str, log: logging.Logger) -> MemorySessionStore:
    """Return a store for ``memory:``, which is nobody else's, whatever the namespace."""
    return MemorySessionStore()


class MemorySessionStore(SessionStore):
    """Keeps sessions in memory. No method waits, so each is a transaction by itself."""

    def __init__(self) -> None:
        self._sessions = SessionCache()
        self._intents: dict[str, Intent] = {}
        self._seq = 0
        self._scope: str | None = None

    async def open(self, owner: Owner) -> None:
        self._scope = owner.owner_id

    def close(self, held: Collection[str] = ()) -> None:
        self._scope = None

    async def heartbeat(self) -> None:
        self._check_open()

    async def ensure_intact(self) -> None:
        self._check_open()

    # Reads

    async def list_sessions(self) -> Sequence[Session]:
        return self._sessions.list_sessions()

    async def find_session(self, session_id: str) -> Session | None:
        return self._sessions.find(session_id)

    async def find_by_document(self, document: str) -> Session | None:
        return self._oldest_of(document)

    async def find_intent(self, token: str) -> Intent | None:
        return self._intents.get(token)

    async def list_intents(self) -> Sequence[Intent]:
        return list(self._intents.values())

    async def count_holders(self, kernel_id: str) -> int:
        return sum(each.kernel_id == kernel_id for each in self._sessions.list_sessions())

    # Starts

    async def acquire(self, intent: Intent) -> Session | None:
        self._check_open()
        existing = self._oldest_of(intent.document)
        if existing is not None:
            return existing
        ended = [] if intent.kernel_id is None else self._claim(intent.kernel_id)
        starts = [
            other
            for other in self._intents.values()
            if other.verb is Verb.START and other.document == intent.document is not None
        ]
        if any(other.lease_until >= utcnow() for other in starts):
            raise StartInProgress(intent.document)
        for other in ended:
            del self._intents[other.token]
        for other in starts:
            self._intents[other.token] = replace(other, verb=Verb.LOST)
        self._intents[intent.token] = intent
        return None

    async def commit(self, token: str, session: Session) -> Session:
        self._check_open()
        started = self._drop(token, Verb.START)
        winner = self._oldest_of(session.document)
        if winner is not None or not started:
            self._note_stop(token, session.kernel_id)
            raise StartLost(winner)
        return self._insert(session)

    async def drop_start(self, token: str) -> None:
        self._check_open()
        self._drop(token, Verb.START)
        self._drop(token, Verb.LOST)

    # Sessions

    async def attach(self, session: Session) -> Session:
        self._check_open()
        return self._oldest_of(session.document) or await self.insert(session)

    async def insert(self, session: Session) -> Session:
        self._check_open()
        self._refuse_unsettled(session.kernel_id)
        if self._sessions.find(session.session_id) is not None:
            raise InvalidRequest(
                "session_id", f"{session.session_id!r} is the id of another session"
            )
        return self._insert(session)

    async def update(
        self,
        session_id: str,
        changes: Changes,
        *,
        start_token: str | None = None,
        stop_token: str,
        force: bool = False,
    ) -> Release:
        before = self._get(session_id)
        kernel = changes.kernel
        if kernel is not UNSET:
            if start_token is None:
                self._refuse_unsettled(kernel.kernel_id)
            elif not self._drop(start_token, Verb.START):
                self._note_stop(start_token, kernel.kernel_id)
                raise StartLost(None)
        session = replace(changes.applied_to(before), last_activity=utcnow())
        self._sessions.put(session)
        released = None
        if session.kernel_id != before.kernel_id:
            released = self._release(before.kernel_id, stop_token, force=force)
        return Release(session=session, kernel_id=released)

    async def rename_document(self, old: str, new: str) -> Sequence[Session]:
        self._check_open()
        renamed = []
        for before in self._sessions.list_sessions():
            after = before.renamed(old, new)
            if after is not None:
                renamed.append(replace(after, last_activity=utcnow()))
                self._sessions.put(renamed[-1])
        return renamed

    async def delete(self, session_id: str, *, stop_token: str, force: bool = False) -> Release:
        session = self._get(session_id)
        self._sessions.drop(session_id)
        released = self._release(session.kernel_id, stop_token, force=force)
        return Release(session=session, kernel_id=released)

    async def finish_stop(self, token: str) -> None:
        self._check_open()
        now = utcnow()
        intent = self._intents.get(token)
        if intent is not None and intent.verb is Verb.STOP:
            self._intents[token] = replace(
                intent, verb=Verb.ENDED, lease_until=now + ENDED_KEPT_FOR
            )
        for other in list(self._intents.values()):
            if other.verb is Verb.ENDED and other.lease_until < now:
                del self._intents[other.token]

    async def end_sessions(self, sessions: Collection[Session]) -> Sequence[Session]:
        self._check_open()
        kernel_ids = {each.session_id: each.kernel_id for each in sessions}
        ended = [
            each
            for each in self._sessions.list_sessions()
            if kernel_ids.get(each.session_id) == each.kernel_id
        ]
        for session in ended:
            self._sessions.drop(session.session_id)
        return ended

    # What others left behind

    async def find_orphans(self, adopted: Collection[str] = ()) -> Orphans:
        return Orphans()

    async def settle_orphans(
        self,
        orphans: Orphans,
        *,
        adopted: Collection[Session] = (),
        ended: Collection[Session] = (),
        undone: Collection[Intent] = (),
    ) -> Sequence[Session]:
        return []

    # Pieces

    def _check_open(self) -> None:
        if self._scope is None:
            raise StoreUnavailable("the session store is not open")

    def _get(self, session_id: str) -> Session:
        self._check_open()
        session = self._sessions.find(session_id)
        if session is None:
            raise SessionNotFound(session_id=session_id)
        return session

    def _oldest_of(self, document: str | None) -> Session | None:
        return None if document is None else self._sessions.find_by_document(document)

    def _insert(self, session: Session) -> Session:
        self._seq += 1
        session = replace(session, seq=self._seq)
        self._sessions.put(session)
        return session

    def _release(self, kernel_id: str, stop_token: str, *, force: bool) -> str | None:
        others = [each for each in self._sessions.list_sessions() if each.kernel_id == kernel_id]
        if others and not force:
            return None
        for session in others:
            self._sessions.drop(session.session_id)
        self._note_stop(stop_token, kernel_id)
        return kernel_id

    def _note_stop(self, token: str, kernel_id: str) -> None:
        assert self._scope is not None
        self._intents[token] = Intent(
            token=token,
            verb=Verb.STOP,
            scope=self._scope,
            document=None,
            kernel_id=kernel_id,
            lease_until=utcnow() + START_LEASE,
        )

    def _drop(self, token: str, verb: Verb) -> bool:
        intent = self._intents.get(token)
        if intent is None or intent.verb is not verb:
            return False
        del self._intents[token]
        return True

    def _claim(self, kernel_id: str) -> list[Intent]:
        """Refuse an id that is in use, or about to be; return what is to be forgotten of it."""
        if any(each.kernel_id == kernel_id for each in self._sessions.list_sessions()):
            raise KernelConflict(kernel_id, "belongs to another session")
        intents = [each for each in self._intents.values() if each.kernel_id == kernel_id]
        if any(each.verb is not Verb.ENDED for each in intents):
            raise KernelConflict(kernel_id, "is being started or stopped")
        return intents

    def _refuse_unsettled(self, kernel_id: str) -> None:
        now = utcnow()
        for intent in self._intents.values():
            if intent.kernel_id == kernel_id and (
                intent.verb is not Verb.ENDED or intent.lease_until >= now
            ):
                raise KernelConflict(kernel_id, "is being started or stopped")
