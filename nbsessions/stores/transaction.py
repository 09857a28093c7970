"""The logic of the writes of a store, shared by all backends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from msgspec import UNSET, Struct
from msgspec.structs import replace

from nbsessions.errors import KernelConflict, SessionNotFound, StartInProgress, StartLost
from nbsessions.models import (
    Changes,
    EndReason,
    Intent,
    Kernel,
    Release,
    Session,
    Sharing,
    Verb,
)
from nbsessions.stores.base import (
    ENDED_KEPT_FOR,
    ENDINGS_KEPT_FOR,
    LONGEST_LEASE,
    SHARED_FOR,
    START_LEASE,
)

T = TypeVar("T")


class SharedStart(Struct, frozen=True):
    """A start that is running or was committed a short time ago, and can be shared."""

    kernel_id: str | None
    """None while the start is running."""


class Tables(ABC):
    """The sessions and intents of one scope, as one transaction reads and writes them.

    Each backend implements this class. "In the store" means in all scopes and namespaces.
    """

    @abstractmethod
    def now(self) -> datetime:
        """Return the time by the clock of the store, which all servers share.

        It must not be earlier than any moment at which this transaction waited for another one.
        """

    # Sessions

    @abstractmethod
    def find_session(self, session_id: str) -> Session | None:
        """Return the session with this id, or None."""

    @abstractmethod
    def find_by_document(self, document: str) -> Session | None:
        """Return the oldest session of this document, or None."""

    @abstractmethod
    def list_by_kernel(self, kernel_id: str) -> Sequence[Session]:
        """Return the sessions of this kernel."""

    @abstractmethod
    def list_within(self, top: str) -> Sequence[Session]:
        """Return the sessions of the document ``top`` and of documents in the folder ``top``."""

    @abstractmethod
    def is_kernel_used(self, kernel_id: str) -> bool:
        """Return whether any session in the store uses the kernel."""

    @abstractmethod
    def is_kernel_foreign(self, kernel_id: str) -> bool:
        """Return whether another namespace in the store has the kernel.

        Sessions of two namespaces never have the same kernel, because neither would know when the
        other one still uses it.
        """

    @abstractmethod
    def add_session(self, session: Session) -> Session:
        """Add a session and return it with its ``seq``.

        Raises InvalidRequest when the session id is taken.
        """

    @abstractmethod
    def change_session(self, session: Session) -> None:
        """Replace the session that has the same id."""

    @abstractmethod
    def remove_session(self, session: Session) -> None:
        """Remove a session."""

    # Intents

    @abstractmethod
    def has_intent(self, kernel_id: str, *, ended_since: datetime | None = None) -> bool:
        """Return whether any intent in the store names the kernel.

        An intent with the verb 'ended' counts only if ``ended_since`` is given and its lease
        ends then or later.
        """

    @abstractmethod
    def add_intent(self, intent: Intent, lease_until: datetime) -> bool:
        """Add an intent. Return False and add nothing if the document already has a 'start'."""

    @abstractmethod
    def renew_start(self, token: str, lease_until: datetime) -> None:
        """Change the lease of a 'start' intent, if it exists."""

    @abstractmethod
    def remove_intent(self, token: str, verb: Verb) -> bool:
        """Remove the intent if it has this verb. Return whether it was removed."""

    @abstractmethod
    def expire_starts(self, document: str, first: datetime, last: datetime) -> None:
        """Change the document's 'start' intent to 'lost' unless its lease ends between these."""

    @abstractmethod
    def end_stop(self, token: str, lease_until: datetime) -> None:
        """Change a 'stop' intent to 'ended', if it exists."""

    @abstractmethod
    def forget_ended(self, kernel_id: str) -> None:
        """Remove all 'ended' intents of the kernel in the store."""

    @abstractmethod
    def forget_ended_before(self, moment: datetime) -> None:
        """Remove the 'ended' intents whose lease ended before ``moment``."""

    # Starts that can be shared

    @abstractmethod
    def find_shared(self, key: str, first: datetime, last: datetime) -> SharedStart | None:
        """Return the latest start with this key, if its time is between ``first`` and ``last``.

        While the start is running, its time is the end of its lease.
        """

    @abstractmethod
    def put_shared(self, key: str, token: str, until: datetime) -> None:
        """Make the start with this token the latest one with the key.

        ``until`` is when this may be forgotten.
        """

    @abstractmethod
    def complete_shared(self, key: str, token: str, kernel_id: str, until: datetime) -> None:
        """Set the kernel and the time of a start, if it is still the latest one with the key."""

    @abstractmethod
    def forget_shared_before(self, moment: datetime) -> None:
        """Remove the starts that could be shared until a time before ``moment``."""

    # Endings

    @abstractmethod
    def add_ending(self, session_id: str, reason: EndReason, ended: datetime) -> None:
        """Record why a session of the namespace ended, instead of an earlier reason."""

    @abstractmethod
    def remove_ending(self, session_id: str) -> None:
        """Remove what is recorded about the end of a session of the namespace, if anything."""

    @abstractmethod
    def forget_endings_before(self, moment: datetime) -> None:
        """Remove endings in the store that are older than ``moment``, perhaps not all at once."""


class Transaction:
    """The write operations of SessionStore, within one transaction of the database.

    The caller must roll back an operation that raises. An operation that returns StartLost must
    be committed, because it has added a 'stop' intent. After the commit, the caller raises the
    returned StartLost.
    """

    def __init__(self, tables: Tables, scope: str) -> None:
        self._tables = tables
        self._scope = scope

    # Starts

    def acquire(
        self, intent: Intent, sharing: Sharing | None, lease: timedelta
    ) -> Session | Kernel | None:
        """See SessionStore.acquire."""
        found = self._oldest_of(intent.document) or self._find_shared(sharing)
        if found is not None:
            return found
        if intent.kernel_id is not None:
            self._refuse_used(intent.kernel_id)
        if not self._add_start(intent, lease):
            raise StartInProgress(intent.document)
        if intent.kernel_id is not None:
            self._tables.forget_ended(intent.kernel_id)
        if sharing is not None:
            until = self._tables.now() + LONGEST_LEASE
            self._tables.put_shared(sharing.key, intent.token, until)
        return None

    def commit(
        self, token: str, session: Session, sharing: Sharing | None = None
    ) -> Session | StartLost:
        """See SessionStore.commit. Returns StartLost instead of raising it."""
        started = self._tables.remove_intent(token, Verb.START)
        winner = self._oldest_of(session.document)
        if winner is not None or not started:
            self._add_stop(token, session.kernel_id)
            return StartLost(winner)
        if sharing is not None:
            now = self._tables.now()
            until = now + SHARED_FOR
            self._tables.complete_shared(sharing.key, token, session.kernel_id, until)
            # Afterwards, because the row of this start is an old one if the start took long.
            self._tables.forget_shared_before(now)
        return self._add(session)

    def renew(self, token: str, lease: timedelta) -> None:
        """See SessionStore.renew."""
        self._tables.renew_start(token, self._tables.now() + lease)

    def drop_start(self, token: str) -> None:
        """See SessionStore.drop_start."""
        self._tables.remove_intent(token, Verb.START)
        self._tables.remove_intent(token, Verb.LOST)

    # Sessions

    def attach(self, session: Session) -> Session:
        """See SessionStore.attach."""
        return self._oldest_of(session.document) or self.insert(session)

    def insert(self, session: Session) -> Session:
        """See SessionStore.insert."""
        self._refuse_changing(session.kernel_id)
        return self._add(session)

    def update(
        self,
        session_id: str,
        changes: Changes,
        *,
        start_token: str | None = None,
        stop_token: str,
        force: bool = False,
    ) -> Release | StartLost:
        """See SessionStore.update. Returns StartLost instead of raising it."""
        before = self._get(session_id)
        kernel = changes.kernel
        if kernel is not UNSET:
            if start_token is None:
                self._refuse_changing(kernel.kernel_id)
            elif not self._tables.remove_intent(start_token, Verb.START):
                self._add_stop(start_token, kernel.kernel_id)
                return StartLost(None)
        session = self._change(changes.applied_to(before))
        released = None
        if session.kernel_id != before.kernel_id:
            released = self._release(before.kernel_id, stop_token, force=force)
        return Release(session=session, kernel_id=released)

    def rename_document(self, old: str, new: str) -> list[Session]:
        """See SessionStore.rename_document."""
        renamed = [session.renamed(old, new) for session in self._tables.list_within(old)]
        return [self._change(session) for session in renamed if session is not None]

    def delete(self, session_id: str, *, stop_token: str, force: bool = False) -> Release:
        """See SessionStore.delete."""
        session = self._get(session_id)
        self._tables.remove_session(session)
        released = self._release(session.kernel_id, stop_token, force=force)
        return Release(session=session, kernel_id=released)

    def finish_stop(self, token: str) -> None:
        """See SessionStore.finish_stop."""
        now = self._tables.now()
        self._tables.end_stop(token, now + ENDED_KEPT_FOR)
        self._tables.forget_ended_before(now)

    def end_sessions(self, sessions: Collection[Session]) -> list[Session]:
        """See SessionStore.end_sessions."""
        found = [(session, self._tables.find_session(session.session_id)) for session in sessions]
        ended = [now for session, now in found if now and now.kernel_id == session.kernel_id]
        for session in ended:
            self._tables.remove_session(session)
        self._record_endings(ended, EndReason.ENDED)
        return ended

    def end_kernel(
        self, kernel_id: str, session_ids: Collection[str], *, stop_token: str
    ) -> list[Session] | None:
        """See SessionStore.end_kernel."""
        sessions = list(self._tables.list_by_kernel(kernel_id))
        if {session.session_id for session in sessions} != set(session_ids):
            return None
        if self._is_changing(kernel_id):
            return None
        for session in sessions:
            self._tables.remove_session(session)
        self._record_endings(sessions, EndReason.ENDED)
        self._add_stop(stop_token, kernel_id)
        return sessions

    # Steps

    def _add_start(self, intent: Intent, lease: timedelta) -> bool:
        """Add a 'start' intent unless the document has another one whose lease is valid."""
        now = self._tables.now()
        if self._tables.add_intent(intent, now + lease):
            return True
        if intent.document is None:
            return False
        # A lease that ends too late was granted before the clock was set back.
        self._tables.expire_starts(intent.document, now, now + LONGEST_LEASE)
        return self._tables.add_intent(intent, now + lease)

    def _find_shared(self, sharing: Sharing | None) -> Kernel | None:
        """Return the kernel that another request has started, if this one can share it.

        Raises StartInProgress while it is being started.
        """
        if sharing is None:
            return None
        now = self._tables.now()
        # A time that is too late was set before the clock was set back.
        start = self._tables.find_shared(sharing.key, now, now + LONGEST_LEASE)
        if start is None:
            return None
        if start.kernel_id is None:
            raise StartInProgress(sharing.document)
        if self._is_changing(start.kernel_id):
            return None
        for session in self._tables.list_by_kernel(start.kernel_id):
            if session.named_document == sharing.document:
                return session.kernel
        return None

    def _add(self, session: Session) -> Session:
        added = self._tables.add_session(session)
        self._tables.remove_ending(session.session_id)
        return added

    def _record_endings(self, sessions: Collection[Session], reason: EndReason) -> None:
        """Record why the sessions ended, and forget old endings at this opportunity."""
        now = self._tables.now()
        for session in sessions:
            self._tables.add_ending(session.session_id, reason, now)
        if sessions:
            self._tables.forget_endings_before(now - ENDINGS_KEPT_FOR)

    def _get(self, session_id: str) -> Session:
        session = self._tables.find_session(session_id)
        if session is None:
            raise SessionNotFound(session_id=session_id)
        return session

    def _oldest_of(self, document: str | None) -> Session | None:
        return None if document is None else self._tables.find_by_document(document)

    def _change(self, session: Session) -> Session:
        session = replace(session, last_activity=self._tables.now())
        self._tables.change_session(session)
        return session

    def _release(self, kernel_id: str, stop_token: str, *, force: bool) -> str | None:
        """Return the kernel's id if it has to be stopped, and add a 'stop' intent for it."""
        others = self._tables.list_by_kernel(kernel_id)
        if others and not force:
            return None
        for session in others:
            self._tables.remove_session(session)
        self._add_stop(stop_token, kernel_id)
        return kernel_id

    def _add_stop(self, token: str, kernel_id: str) -> None:
        # A 'lost' intent may still have this token.
        self._tables.remove_intent(token, Verb.LOST)
        stop = Intent(
            token=token, verb=Verb.STOP, scope=self._scope, document=None, kernel_id=kernel_id
        )
        self._tables.add_intent(stop, self._tables.now() + START_LEASE)

    def _refuse_used(self, kernel_id: str) -> None:
        """Raise KernelConflict unless a new kernel may use this id."""
        if self._tables.is_kernel_used(kernel_id):
            raise KernelConflict(kernel_id, "belongs to another session")
        if self._tables.has_intent(kernel_id):
            raise KernelConflict(kernel_id, "is being started or stopped")

    def _refuse_changing(self, kernel_id: str) -> None:
        """Raise KernelConflict unless a session may use this kernel."""
        if self._is_changing(kernel_id):
            raise KernelConflict(kernel_id, "is being started or stopped")
        if self._tables.is_kernel_foreign(kernel_id):
            raise KernelConflict(kernel_id, "is used by the server of another namespace")

    def _is_changing(self, kernel_id: str) -> bool:
        return self._tables.has_intent(kernel_id, ended_since=self._tables.now())


def raise_if_lost(outcome: T | StartLost) -> T:
    """Return the outcome of a committed operation, or raise it if it is a StartLost."""
    if isinstance(outcome, StartLost):
        raise outcome
    return outcome
