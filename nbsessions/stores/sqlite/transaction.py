"""One transaction on the file, with the writes of SessionStore and the records of owners."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from nbsessions.models import (
    ABANDONED_AFTER,
    EndReason,
    Intent,
    Orphans,
    Owner,
    Session,
    utcnow,
)
from nbsessions.stores.base import ENDINGS_KEPT_FOR, START_LEASE
from nbsessions.stores.sqlite import statements
from nbsessions.stores.sqlite.rows import RowReader, timestamp
from nbsessions.stores.sqlite.stock import STOCK_SCOPE, is_stock_file, read_stock_sessions
from nbsessions.stores.sqlite.tables import SQLiteTables
from nbsessions.stores.transaction import Transaction


class SQLiteTransaction(Transaction):
    """The writes for one namespace and scope, in a transaction that the caller has begun."""

    def __init__(
        self, connection: sqlite3.Connection, namespace: str, scope: str, rows: RowReader
    ) -> None:
        self.tables = SQLiteTables(connection, namespace, scope, rows)
        super().__init__(self.tables, scope)
        self._connection = connection
        self._namespace = namespace

    # Revisions

    def raise_revision(self) -> int:
        """Increment the namespace's revision and return the old one. Takes the write lock."""
        key = (self._namespace,)
        if self._execute(statements.RAISE_REVISION, *key) == 0:
            self._execute(statements.INSERT_NAMESPACE, *key)
            return 0
        row = self._connection.execute(statements.SELECT_REVISION, key).fetchone()
        revision: int = row["revision"]
        return revision - 1

    def record_write(self, revision: int, before: int) -> bool:
        """Record in the owner's row that this owner wrote this revision.

        ``before`` is the revision of the owner's previous write. Returns False when the file no
        longer has the owner's row, or lacks that write.
        """
        return self._execute(statements.SIGN_WRITE, revision, self._scope, before) == 1

    # This owner

    def register(self, owner: Owner) -> None:
        """Insert the owner's row as alive, or renew its heartbeat. Forget old endings.

        Each server does this again and again, so old endings are forgotten even if no session
        ends any more.
        """
        now = utcnow()
        self._execute(
            statements.REGISTER_OWNER,
            owner.owner_id,
            self._namespace,
            owner.host,
            owner.boot_id,
            owner.pid,
            timestamp(now),
            owner.provider,
        )
        self.tables.forget_endings_before(now - ENDINGS_KEPT_FOR)

    def mark_stopped(self, running: Collection[str]) -> None:
        """Record a clean stop, and remove sessions and intents of kernels not in ``running``."""
        sessions = self.tables.list_sessions()
        stopped = [session for session in sessions if session.kernel_id not in running]
        for session in stopped:
            self.tables.remove_session(session)
        self._record_endings(stopped, EndReason.STOPPED)
        for intent in self.tables.list_intents():
            if intent.kernel_id not in running:
                self._execute(statements.DELETE_INTENT, intent.token)
        self._execute(statements.STOP_OWNER, timestamp(utcnow()), self._scope)
        self._execute(statements.DELETE_BARE_OWNER, self._scope)

    def restore(
        self,
        owner: Owner,
        sessions: Iterable[Session],
        intents: Iterable[Intent],
        revision: int,
    ) -> None:
        """Replace this owner's rows in the file with the given sessions and intents.

        The revision becomes higher than ``revision``, the last known one, so that readers do not
        mistake the new contents for older ones.
        """
        self._execute(statements.RAISE_REVISION_OVER, revision, self._namespace)
        self.register(owner)
        self._execute(statements.DELETE_SCOPE, self._namespace, self._scope)
        self._execute(statements.DELETE_INTENTS_OF_OWNER, self._scope)
        for session in sessions:
            # An older copy of the file may have the session with an earlier owner.
            self._execute(statements.DELETE_BY_ID, self._namespace, session.session_id)
            self._add(session)
        for intent in intents:
            self.tables.add_intent(intent, self.tables.now() + START_LEASE)

    def import_stock(self) -> None:
        """Import the sessions of jupyter_server's own table, only once for each file."""
        if not is_stock_file(self._connection):
            return
        if self._execute(statements.NOTE_STOCK_IMPORT) == 0:
            return
        now = timestamp(utcnow())
        self._execute(statements.INSERT_STOPPED_OWNER, STOCK_SCOPE, self._namespace, now, now)
        for session in read_stock_sessions(self._connection):
            self._add(session)

    # Other owners

    def recover(
        self,
        orphans: Orphans,
        adopted: Iterable[Session],
        ended: Iterable[tuple[Session, EndReason]],
        undone: Iterable[Intent],
    ) -> tuple[list[Session], list[str]]:
        """See SessionStore.recover. Returns the removed sessions and the ids of removed owners."""
        for session in adopted:
            self._adopt(session)
        removed = []
        for session, reason in ended:
            if self._remove_orphan(session):
                self._record_endings([session], reason)
                removed.append(session)
        for intent in undone:
            self._execute(statements.DELETE_INTENT, intent.token)
        forgotten = [
            owner_id
            for owner_id in orphans.owners
            if self._execute(statements.DELETE_BARE_OWNER, owner_id)
        ]
        return removed, forgotten

    def forget_owners(
        self, is_dead: Callable[[sqlite3.Row], bool], is_abandoned: Callable[[sqlite3.Row], bool]
    ) -> list[str]:
        """Remove empty dead owners of other namespaces, and all abandoned owners.

        An empty owner has no sessions and no intents. Abandoned owners are removed together with
        their sessions and intents. Returns the ids of the removed owners.
        """
        key = (self._namespace,)
        bare = self._connection.execute(statements.SELECT_BARE_OWNERS, key)
        forgotten = [row["owner"] for row in bare if is_dead(row)]
        owners = self._connection.execute(statements.SELECT_ALL_OWNERS)
        abandoned = [row["owner"] for row in owners if is_abandoned(row)]
        for owner_id in abandoned:
            self._execute(statements.DELETE_SCOPE_EVERYWHERE, owner_id)
            self._execute(statements.DELETE_INTENTS_OF_OWNER, owner_id)
        for owner_id in (*forgotten, *abandoned):
            self._execute(statements.DELETE_BARE_OWNER, owner_id)
        before = timestamp(utcnow() - ABANDONED_AFTER)
        self._execute(statements.DELETE_UNOWNED_SESSIONS, before)
        self._execute(statements.DELETE_UNOWNED_INTENTS, before)
        self._execute(statements.DELETE_EMPTY_NAMESPACES, *key)
        return [*forgotten, *abandoned]

    # Steps

    def _adopt(self, session: Session) -> None:
        key = (self._namespace, session.session_id, session.scope)
        if self._execute(statements.ADOPT_SESSION, self._scope, session.provider, *key):
            self.tables.changed[session.session_id] = replace(session, scope=self._scope)

    def _remove_orphan(self, session: Session) -> bool:
        key = (self._namespace, session.session_id, session.scope, session.kernel_id)
        return self._execute(statements.DELETE_ORPHAN, *key) > 0

    def _execute(self, statement: str, *values: object) -> int:
        """Run the statement and return the number of rows that it changed."""
        return self._connection.execute(statement, values).rowcount
