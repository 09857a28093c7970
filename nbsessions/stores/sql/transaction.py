"""One transaction of an SQL store, with the writes of SessionStore and the records of owners."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager
from datetime import timedelta

from msgspec.structs import replace

from nbsessions.models import EndReason, Intent, Orphans, Owner, Session, Takeover, Verb
from nbsessions.stores.base import ENDINGS_KEPT_FOR, START_LEASE
from nbsessions.stores.sql.serving import Sharer, is_unserved
from nbsessions.stores.sql.tables import SQLTables
from nbsessions.stores.transaction import Transaction


class SQLTransaction(Transaction, ABC):
    """The writes for one namespace and scope, in a transaction that the caller has begun."""

    def __init__(self, tables: SQLTables, owner: Owner) -> None:
        super().__init__(tables, owner.scope)
        self.tables = tables
        self._owner = owner
        self.is_for_one = False
        """Whether there is only one operation. If it fails, so does the transaction."""

    @abstractmethod
    def savepoint(self) -> AbstractContextManager[None]:
        """Undo what the body has written if it raises an error.

        With ``is_for_one``, it undoes nothing. The whole transaction is rolled back then.
        """

    # This owner

    def register(self, owner: Owner) -> None:
        """Insert the owner's row as alive, or renew its heartbeat. Forget old endings.

        Each server does this again and again, so old endings are forgotten even if no session
        ends any more.
        """
        self.tables.put_owner(owner)
        self.tables.forget_endings_before(self.tables.now() - ENDINGS_KEPT_FOR)

    def mark_stopped(self, running: Collection[str]) -> None:
        """Record a clean stop, and remove sessions and intents of kernels not in ``running``.

        In a shared scope, all of them stay.
        """
        if not self._owner.shared_scope:
            self._remove_all_but(running)
        self.tables.stop_owner()
        self.tables.forget_owner(self._owner.owner_id)

    def restore(self, sessions: Iterable[Session], intents: Iterable[Intent]) -> None:
        """Replace this owner's rows in the store with the given sessions and intents.

        In a shared scope, others may have restored sessions already and changed them since, or
        started others for their documents. So only those that are missing are added.
        """
        self.register(self._owner)
        present: list[Session] = []
        if self._owner.shared_scope:
            present = self.tables.list_sessions()
        else:
            self.tables.clear()
        known = {session.session_id for session in present}
        documents = {session.document for session in present} - {None}
        for session in sessions:
            if session.session_id in known or session.document in documents:
                continue
            # An older copy of the store may have the session with an earlier owner.
            self.tables.delete_session_anywhere(session.session_id)
            self._add(session)
        for intent in intents:
            self.tables.add_intent(intent, self.tables.now() + START_LEASE)

    def _remove_all_but(self, running: Collection[str]) -> None:
        stopped = [each for each in self.tables.list_sessions() if each.kernel_id not in running]
        for session in stopped:
            self.tables.remove_session(session)
        self._record_endings(stopped, EndReason.STOPPED)
        for intent in self.tables.list_intents():
            if intent.kernel_id not in running:
                self.tables.delete_intent(intent.token)

    # Other owners

    def claim(self, intents: Iterable[Intent]) -> list[Intent]:
        """See SessionStore.claim."""
        claimed = [intent for intent in intents if self.tables.claim(intent)]
        for intent in claimed:
            verb = Verb.LOST if intent.verb is Verb.START else intent.verb
            self.tables.intents[intent.token] = replace(intent, verb=verb)
        return claimed

    def recover(
        self,
        orphans: Orphans,
        adopted: Iterable[Session],
        ended: Iterable[tuple[Session, EndReason]],
        undone: Iterable[Intent],
    ) -> tuple[list[Session], list[str]]:
        """See SessionStore.recover. Returns the removed sessions and the ids of removed owners."""
        for session in adopted:
            if self.tables.adopt(session):
                adopting = replace(session, scope=self._scope)
                self.tables.changed[session.session_id] = adopting
        removed = []
        for session, reason in ended:
            if self.tables.remove_orphan(session):
                self._record_endings([session], reason)
                removed.append(session)
        for intent in undone:
            self.tables.delete_intent(intent.token)
        # Only then this owner is the last that has served its scope, if others share it.
        self.tables.put_owner(self._owner)
        forgotten = [each for each in orphans.owners if self.tables.forget_owner(each)]
        return removed, forgotten

    def take_unserved(
        self,
        scope: str,
        sharers: Iterable[Sharer],
        after: timedelta | None,
        session_ids: Collection[str] | None,
    ) -> Takeover | None:
        """See SessionStore.take_unserved. ``sharers``: all others in the scope."""
        if not is_unserved(sharers, after):
            return None
        found = self.tables.list_sessions_of(scope)
        taken = [each for each in found if session_ids is None or each.session_id in session_ids]
        used = {each.kernel_id for each in found if each not in taken}
        for session in taken:
            self.tables.remove_session(session)
        self._record_endings(taken, EndReason.DIED)
        claimed = self.claim(self.tables.list_open_intents_of(scope))
        stops = [
            self._add_stop_in(scope, kernel_id)
            for kernel_id in dict.fromkeys(session.kernel_id for session in taken)
            if kernel_id not in used
        ]
        return Takeover(sessions=tuple(taken), intents=(*claimed, *stops))

    def _add_stop_in(self, scope: str, kernel_id: str) -> Intent:
        stop = Intent(
            token=str(uuid.uuid4()),
            verb=Verb.STOP,
            scope=scope,
            document=None,
            kernel_id=kernel_id,
        )
        self.tables.add_intent(stop, self.tables.now() + START_LEASE)
        return stop
