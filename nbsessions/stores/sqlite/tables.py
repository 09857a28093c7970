"""The tables of sessions, intents, endings and owners, as a transaction uses them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from nbsessions.errors import InvalidRequest
from nbsessions.models import EndReason, Intent, Owner, Session, Verb, utcnow
from nbsessions.stores.sql.transaction import SQLTables
from nbsessions.stores.sqlite import statements
from nbsessions.stores.sqlite.rows import RowReader, timestamp


class SQLiteTables(SQLTables):
    """The rows of one namespace and scope, on a connection that is in a transaction."""

    def __init__(
        self, connection: sqlite3.Connection, namespace: str, owner: Owner, rows: RowReader
    ) -> None:
        super().__init__()
        self._connection = connection
        self._namespace = namespace
        self._owner_id = owner.owner_id
        self._scope = owner.scope
        self._rows = rows

    def now(self) -> datetime:
        return utcnow()

    # Sessions

    def list_sessions(self) -> list[Session]:
        return self._sessions(statements.SELECT_SESSIONS)

    def find_session(self, session_id: str) -> Session | None:
        return next(iter(self._sessions(statements.SELECT_SESSION, session_id)), None)

    def find_by_document(self, document: str) -> Session | None:
        return next(iter(self._sessions(statements.SELECT_BY_DOCUMENT, document)), None)

    def list_by_kernel(self, kernel_id: str) -> Sequence[Session]:
        return self._sessions(statements.SELECT_BY_KERNEL, kernel_id)

    def list_within(self, top: str) -> Sequence[Session]:
        # Paths that begin with "top/" sort between "top/" and "top0", because "0" follows "/".
        return self._sessions(statements.SELECT_WITHIN, top, f"{top}/", f"{top}0")

    def is_kernel_used(self, kernel_id: str) -> bool:
        return self._exists(statements.SELECT_ANY_BY_KERNEL, kernel_id)

    def add_session(self, session: Session) -> Session:
        try:
            cursor = self._connection.execute(
                statements.INSERT_SESSION,
                (
                    self._namespace,
                    session.session_id,
                    session.scope,
                    session.provider,
                    session.path,
                    session.document,
                    session.name,
                    session.type,
                    session.kernel_id,
                    session.kernel_name,
                    timestamp(session.created),
                    timestamp(session.last_activity),
                ),
            )
        except sqlite3.IntegrityError as error:
            raise InvalidRequest(
                "session_id", f"{session.session_id!r} is the id of another session"
            ) from error
        assert cursor.lastrowid is not None
        session = replace(session, seq=cursor.lastrowid)
        self.changed[session.session_id] = session
        return session

    def change_session(self, session: Session) -> None:
        self._connection.execute(
            statements.UPDATE_SESSION,
            (
                session.provider,
                session.path,
                session.document,
                session.name,
                session.type,
                session.kernel_id,
                session.kernel_name,
                timestamp(session.last_activity),
                session.seq,
            ),
        )
        self.changed[session.session_id] = session

    def remove_session(self, session: Session) -> None:
        self._connection.execute(statements.DELETE_SESSION, (session.seq,))
        self.changed[session.session_id] = None

    # Intents

    def list_intents(self) -> list[Intent]:
        key = (self._namespace, self._scope)
        return self._rows.intents(self._connection.execute(statements.SELECT_INTENTS, key))

    def has_intent(self, kernel_id: str, *, ended_since: datetime | None = None) -> bool:
        if ended_since is None:
            return self._exists(statements.SELECT_OPEN_INTENT, kernel_id)
        return self._exists(statements.SELECT_RECENT_INTENT, kernel_id, timestamp(ended_since))

    def add_intent(self, intent: Intent, lease_until: datetime) -> bool:
        # Inserts nothing if the document has a 'start' already, because of a unique index.
        cursor = self._connection.execute(
            statements.INSERT_INTENT,
            (
                intent.token,
                self._namespace,
                intent.scope,
                intent.document,
                intent.verb.value,
                intent.kernel_id,
                self._owner_id,
                timestamp(lease_until),
            ),
        )
        if cursor.rowcount != 1:
            return False
        self.intents[intent.token] = intent
        return True

    def renew_start(self, token: str, lease_until: datetime) -> None:
        self._execute(statements.RENEW_START, timestamp(lease_until), token)

    def remove_intent(self, token: str, verb: Verb) -> bool:
        cursor = self._connection.execute(statements.DELETE_INTENT_OF_VERB, (token, verb.value))
        if cursor.rowcount != 1:
            return False
        self.intents[token] = None
        return True

    def expire_starts(self, document: str, before: datetime) -> None:
        self._connection.execute(
            statements.LOSE_STARTS, (self._namespace, self._scope, document, timestamp(before))
        )

    def end_stop(self, token: str, lease_until: datetime) -> None:
        self._connection.execute(statements.END_STOP, (timestamp(lease_until), token))
        # An 'ended' intent need not be written again if the file is replaced.
        self.intents[token] = None

    def forget_ended(self, kernel_id: str) -> None:
        self._connection.execute(statements.DELETE_ENDED, (kernel_id,))

    def forget_ended_before(self, moment: datetime) -> None:
        self._connection.execute(
            statements.DELETE_ENDED_BEFORE, (self._namespace, self._scope, timestamp(moment))
        )

    # Endings

    def add_ending(self, session_id: str, reason: EndReason, ended: datetime) -> None:
        self._connection.execute(
            statements.INSERT_ENDING,
            (self._namespace, session_id, reason.value, timestamp(ended)),
        )

    def remove_ending(self, session_id: str) -> None:
        self._connection.execute(statements.DELETE_ENDING, (self._namespace, session_id))

    def forget_endings_before(self, moment: datetime) -> None:
        self._connection.execute(statements.DELETE_ENDINGS_BEFORE, (timestamp(moment),))

    # Whole scopes

    def delete_intent(self, token: str) -> None:
        self._execute(statements.DELETE_INTENT, token)

    def clear(self) -> None:
        self._execute(statements.DELETE_SCOPE, self._namespace, self._scope)
        self._execute(statements.DELETE_INTENTS_OF_OWNER, self._owner_id)

    def delete_session_anywhere(self, session_id: str) -> None:
        self._execute(statements.DELETE_BY_ID, self._namespace, session_id)

    def claim(self, intent: Intent) -> bool:
        values = (self._owner_id, intent.token, intent.owner)
        return self._execute(statements.CLAIM_INTENT, *values) > 0

    def adopt(self, session: Session) -> bool:
        key = (self._namespace, session.session_id, session.scope)
        return self._execute(statements.ADOPT_SESSION, self._scope, session.provider, *key) > 0

    def remove_orphan(self, session: Session) -> bool:
        key = (self._namespace, session.session_id, session.scope, session.kernel_id)
        return self._execute(statements.DELETE_ORPHAN, *key) > 0

    # Owners

    def put_owner(self, owner: Owner) -> None:
        self._execute(
            statements.REGISTER_OWNER,
            owner.owner_id,
            self._namespace,
            owner.host,
            owner.boot_id,
            owner.pid,
            timestamp(self.now()),
            owner.provider,
        )

    def stop_owner(self) -> None:
        self._execute(statements.STOP_OWNER, timestamp(self.now()), self._owner_id)

    def forget_owner(self, owner_id: str) -> bool:
        return self._execute(statements.DELETE_BARE_OWNER, owner_id) > 0

    # Steps

    def _execute(self, statement: str, *values: object) -> int:
        """Run the statement and return the number of rows that it changed."""
        return self._connection.execute(statement, values).rowcount

    def _sessions(self, statement: str, *values: str) -> list[Session]:
        key = (self._namespace, self._scope, *values)
        return self._rows.sessions(self._connection.execute(statement, key))

    def _exists(self, statement: str, *values: str) -> bool:
        return self._connection.execute(statement, values).fetchone() is not None
