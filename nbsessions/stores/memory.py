"""A session store in memory. Its contents are lost when the process exits."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from msgspec.structs import replace

from nbsessions.errors import InvalidRequest, StoreUnavailable
from nbsessions.models import (
    Changes,
    Ending,
    EndReason,
    Intent,
    Kernel,
    Orphans,
    Owner,
    Release,
    Session,
    Sharing,
    Takeover,
    Verb,
    is_within,
    utcnow,
)
from nbsessions.stores.base import ENDINGS_KEPT_FOR, START_LEASE, SessionStore
from nbsessions.stores.cache import SessionCache
from nbsessions.stores.transaction import SharedStart, Tables, Transaction, raise_if_lost


def store_from_url(url: str, *, namespace: str, log: logging.Logger) -> MemorySessionStore:
    """Return a new store for the URL ``memory:``. Its contents are not shared."""
    return MemorySessionStore()


class MemorySessionStore(SessionStore):
    """Stores sessions in memory. No method awaits anything, so each one is atomic."""

    outlives_server = False

    def __init__(self) -> None:
        self._tables = _MemoryTables()
        self._transaction: Transaction | None = None

    async def open(self, owner: Owner) -> None:
        self._transaction = Transaction(self._tables, owner.scope)

    def close(self, running: Collection[str] = ()) -> None:
        self._transaction = None

    async def heartbeat(self) -> None:
        self._opened()

    async def ensure_intact(self) -> None:
        self._opened()

    # Reads

    async def list_sessions(self) -> Sequence[Session]:
        return self._tables.sessions.snapshot()

    async def find_session(self, session_id: str) -> Session | None:
        return self._tables.find_session(session_id)

    async def list_by_document(self, document: str) -> Sequence[Session]:
        return self._tables.sessions.list_by_document(document)

    async def list_by_kernel(self, kernel_id: str) -> Sequence[Session]:
        return self._tables.list_by_kernel(kernel_id)

    async def find_intent(self, token: str) -> Intent | None:
        return self._tables.intents.get(token)

    async def list_intents(self) -> Sequence[Intent]:
        return list(self._tables.intents.values())

    async def count_by_kernel(self, kernel_id: str) -> int:
        return len(self._tables.list_by_kernel(kernel_id))

    async def find_endings(self, session_ids: Collection[str]) -> Mapping[str, Ending]:
        since = utcnow() - ENDINGS_KEPT_FOR
        recorded = {each: self._tables.endings.get(each) for each in session_ids}
        return {
            session_id: Ending(session_id=session_id, reason=found[0], ended=found[1])
            for session_id, found in recorded.items()
            if found is not None and found[1] >= since
        }

    # Writes

    async def acquire(
        self, intent: Intent, *, sharing: Sharing | None = None, lease: timedelta = START_LEASE
    ) -> Session | Kernel | None:
        return self._opened().acquire(intent, sharing, lease)

    async def commit(
        self,
        token: str,
        session: Session,
        *,
        sharing: Sharing | None = None,
        urgent: bool = True,
    ) -> Session:
        return raise_if_lost(self._opened().commit(token, session, sharing))

    async def renew(self, token: str, *, lease: timedelta = START_LEASE) -> None:
        self._opened().renew(token, lease)

    async def drop_start(self, token: str) -> None:
        self._opened().drop_start(token)

    async def attach(self, session: Session) -> Session:
        return self._opened().attach(session)

    async def insert(self, session: Session) -> Session:
        return self._opened().insert(session)

    async def update(
        self,
        session_id: str,
        changes: Changes,
        *,
        start_token: str | None = None,
        stop_token: str,
        force: bool = False,
    ) -> Release:
        return raise_if_lost(
            self._opened().update(
                session_id, changes, start_token=start_token, stop_token=stop_token, force=force
            )
        )

    async def rename_document(self, old: str, new: str) -> Sequence[Session]:
        return self._opened().rename_document(old, new)

    async def delete(self, session_id: str, *, stop_token: str, force: bool = False) -> Release:
        return self._opened().delete(session_id, stop_token=stop_token, force=force)

    async def finish_stop(self, token: str) -> None:
        self._opened().finish_stop(token)

    async def end_sessions(self, sessions: Collection[Session]) -> Sequence[Session]:
        return self._opened().end_sessions(sessions)

    async def end_kernel(
        self, kernel_id: str, session_ids: Collection[str], *, stop_token: str
    ) -> Sequence[Session] | None:
        return self._opened().end_kernel(kernel_id, session_ids, stop_token=stop_token)

    # Orphans

    async def find_orphans(self, adopted: Collection[str] = ()) -> Orphans:
        return Orphans()

    async def claim(self, intents: Collection[Intent]) -> Sequence[Intent]:
        return []

    async def recover(
        self,
        orphans: Orphans,
        *,
        adopted: Collection[Session] = (),
        ended: Collection[tuple[Session, EndReason]] = (),
        undone: Collection[Intent] = (),
    ) -> Sequence[Session]:
        return []

    # Scopes that no server serves

    def for_namespace(self, namespace: str) -> MemorySessionStore:
        return MemorySessionStore()

    async def find_unserved(self, after: timedelta) -> Mapping[str, Collection[str]]:
        return {}

    async def take_unserved(
        self,
        scope: str,
        *,
        after: timedelta | None = None,
        session_ids: Collection[str] | None = None,
    ) -> Takeover | None:
        return Takeover()

    def _opened(self) -> Transaction:
        if self._transaction is None:
            raise StoreUnavailable("the session store is not open")
        return self._transaction


class _MemoryTables(Tables):
    """Sessions, intents and endings in dictionaries.

    There is no rollback, because an operation that raises has written nothing.
    """

    def __init__(self) -> None:
        self.sessions = SessionCache()
        self.intents: dict[str, Intent] = {}
        self.endings: dict[str, tuple[EndReason, datetime]] = {}
        """The reason and the time of each ending, the oldest first."""
        self.shared: dict[str, tuple[str, str | None, datetime]] = {}
        """The token, the kernel id and the time of starts that can be shared, by key."""
        self._seq = 0

    def now(self) -> datetime:
        return utcnow()

    # Sessions

    def find_session(self, session_id: str) -> Session | None:
        return self.sessions.find(session_id)

    def find_by_document(self, document: str) -> Session | None:
        return next(iter(self.sessions.list_by_document(document)), None)

    def list_by_kernel(self, kernel_id: str) -> Sequence[Session]:
        return self.sessions.list_by_kernel(kernel_id)

    def list_within(self, top: str) -> Sequence[Session]:
        return [
            session
            for session in self.sessions.snapshot()
            if session.document is not None and is_within(session.document, top)
        ]

    def is_kernel_used(self, kernel_id: str) -> bool:
        return bool(self.list_by_kernel(kernel_id))

    def is_kernel_foreign(self, kernel_id: str) -> bool:
        return False

    def add_session(self, session: Session) -> Session:
        if self.sessions.find(session.session_id) is not None:
            raise InvalidRequest(
                "session_id", f"{session.session_id!r} is the id of another session"
            )
        self._seq += 1
        session = replace(session, seq=self._seq)
        self.sessions.put(session)
        return session

    def change_session(self, session: Session) -> None:
        self.sessions.put(session)

    def remove_session(self, session: Session) -> None:
        self.sessions.drop(session.session_id)

    # Intents

    def has_intent(self, kernel_id: str, *, ended_since: datetime | None = None) -> bool:
        return any(
            intent.verb is not Verb.ENDED
            or (ended_since is not None and not _has_lapsed(intent, ended_since))
            for intent in self.intents.values()
            if intent.kernel_id == kernel_id
        )

    def add_intent(self, intent: Intent, lease_until: datetime) -> bool:
        if intent.verb is Verb.START and self._starts_of(intent.document):
            return False
        self.intents[intent.token] = replace(intent, lease_until=lease_until)
        return True

    def renew_start(self, token: str, lease_until: datetime) -> None:
        intent = self.intents.get(token)
        if intent is not None and intent.verb is Verb.START:
            self.intents[token] = replace(intent, lease_until=lease_until)

    def remove_intent(self, token: str, verb: Verb) -> bool:
        intent = self.intents.get(token)
        if intent is None or intent.verb is not verb:
            return False
        del self.intents[token]
        return True

    def expire_starts(self, document: str, first: datetime, last: datetime) -> None:
        for intent in self._starts_of(document):
            if intent.lease_until is not None and not first <= intent.lease_until <= last:
                self.intents[intent.token] = replace(intent, verb=Verb.LOST)

    def end_stop(self, token: str, lease_until: datetime) -> None:
        intent = self.intents.get(token)
        if intent is not None and intent.verb is Verb.STOP:
            self.intents[token] = replace(intent, verb=Verb.ENDED, lease_until=lease_until)

    def forget_ended(self, kernel_id: str) -> None:
        for intent in list(self.intents.values()):
            if intent.verb is Verb.ENDED and intent.kernel_id == kernel_id:
                del self.intents[intent.token]

    def forget_ended_before(self, moment: datetime) -> None:
        for intent in list(self.intents.values()):
            if intent.verb is Verb.ENDED and _has_lapsed(intent, moment):
                del self.intents[intent.token]

    # Starts that can be shared

    def find_shared(self, key: str, first: datetime, last: datetime) -> SharedStart | None:
        token, kernel_id, until = self.shared.get(key, ("", None, None))
        if kernel_id is None:
            intent = self.intents.get(token)
            running = intent is not None and intent.verb is Verb.START
            until = intent.lease_until if intent is not None and running else None
        return SharedStart(kernel_id) if until is not None and first <= until <= last else None

    def put_shared(self, key: str, token: str, until: datetime) -> None:
        self.shared[key] = (token, None, until)

    def complete_shared(self, key: str, token: str, kernel_id: str, until: datetime) -> None:
        if self.shared.get(key, ("",))[0] == token:
            self.shared[key] = (token, kernel_id, until)

    def forget_shared_before(self, moment: datetime) -> None:
        self.shared = {key: each for key, each in self.shared.items() if each[2] >= moment}

    # Endings

    def add_ending(self, session_id: str, reason: EndReason, ended: datetime) -> None:
        self.remove_ending(session_id)
        self.endings[session_id] = (reason, ended)

    def remove_ending(self, session_id: str) -> None:
        self.endings.pop(session_id, None)

    def forget_endings_before(self, moment: datetime) -> None:
        while self.endings:
            session_id, (_, ended) = next(iter(self.endings.items()))
            if ended >= moment:
                break
            del self.endings[session_id]

    # Steps

    def _starts_of(self, document: str | None) -> list[Intent]:
        return [
            intent
            for intent in self.intents.values()
            if intent.verb is Verb.START and intent.document == document is not None
        ]


def _has_lapsed(intent: Intent, moment: datetime) -> bool:
    return intent.lease_until is not None and intent.lease_until < moment
