"""The tables of sessions, intents, endings and owners, as a transaction uses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from psycopg import Connection, Cursor

from nbsessions.errors import InvalidRequest
from nbsessions.models import EndReason, Intent, Owner, Session, Verb
from nbsessions.stores.postgres import statements
from nbsessions.stores.postgres.rows import intents_from_rows, session_from_row
from nbsessions.stores.sql.transaction import SQLTables


class PostgresTables(SQLTables):
    """The rows of one namespace and scope, on a connection that has locked the namespace.

    "In the store" means in the namespace, and in all namespaces for the sessions' kernel ids.
    """

    def __init__(
        self, connection: Connection, namespace: str, owner: Owner, now: datetime
    ) -> None:
        """``now``: the time by the clock of the database, after the namespace was locked."""
        super().__init__()
        self._connection = connection
        self._namespace = namespace
        self._owner_id = owner.owner_id
        self._scope = owner.scope
        self._now = now.astimezone(timezone.utc)

    def now(self) -> datetime:
        return self._now

    # Sessions

    def list_sessions(self) -> list[Session]:
        return self._sessions(statements.SELECT_SESSIONS)

    def find_session(self, session_id: str) -> Session | None:
        return next(iter(self._sessions(statements.SELECT_SESSION, session_id)), None)

    def find_by_document(self, document: str) -> Session | None:
        found = self._sessions(statements.SELECT_BY_DOCUMENT, document, document)
        return next(iter(found), None)

    def list_by_kernel(self, kernel_id: str) -> Sequence[Session]:
        return self._sessions(statements.SELECT_BY_KERNEL, kernel_id)

    def list_within(self, top: str) -> Sequence[Session]:
        # Paths that begin with "top/" sort between "top/" and "top0", because "0" follows "/" and
        # the column is compared byte by byte.
        return self._sessions(statements.SELECT_WITHIN, top, f"{top}/", f"{top}0")

    def is_kernel_used(self, kernel_id: str) -> bool:
        if self._exists(statements.SELECT_ANY_BY_KERNEL, self._namespace, kernel_id):
            return True
        # Another namespace may have the id. Its rows cannot be seen if roles separate them.
        self._execute(statements.CLAIM_KERNEL, kernel_id, self._namespace)
        return not self._exists(statements.HAS_KERNEL, kernel_id, self._namespace)

    def add_session(self, session: Session) -> Session:
        row = self._connection.execute(
            statements.INSERT_SESSION,
            {
                "namespace": self._namespace,
                "session_id": session.session_id,
                "scope": session.scope,
                "created": session.created,
                **_columns(session),
            },
        ).fetchone()
        if row is None:
            raise InvalidRequest(
                "session_id", f"{session.session_id!r} is the id of another session"
            )
        session = replace(session, seq=row[0])
        self.changed[session.session_id] = session
        return session

    def change_session(self, session: Session) -> None:
        self._connection.execute(
            statements.UPDATE_SESSION,
            {"namespace": self._namespace, "seq": session.seq, **_columns(session)},
        )
        self.changed[session.session_id] = session

    def remove_session(self, session: Session) -> None:
        self._execute(statements.DELETE_SESSION, session.seq)
        self.changed[session.session_id] = None

    # Intents

    def list_intents(self) -> list[Intent]:
        key = (self._namespace, self._scope)
        return intents_from_rows(self._connection.execute(statements.SELECT_INTENTS, key))

    def has_intent(self, kernel_id: str, *, ended_since: datetime | None = None) -> bool:
        key = (self._namespace, kernel_id)
        if ended_since is None:
            return self._exists(statements.SELECT_OPEN_INTENT, *key)
        return self._exists(statements.SELECT_RECENT_INTENT, *key, ended_since)

    def add_intent(self, intent: Intent, lease_until: datetime) -> bool:
        # Inserts nothing if the document has a 'start' already, because of a unique index.
        added = self._execute(
            statements.INSERT_INTENT,
            intent.token,
            self._namespace,
            intent.scope,
            intent.document,
            intent.verb.value,
            intent.kernel_id,
            self._owner_id,
            lease_until,
        )
        if added:
            self.intents[intent.token] = intent
        return added > 0

    def renew_start(self, token: str, lease_until: datetime) -> None:
        self._execute(statements.RENEW_START, lease_until, token)

    def remove_intent(self, token: str, verb: Verb) -> bool:
        if not self._execute(statements.DELETE_INTENT_OF_VERB, token, verb.value):
            return False
        self.intents[token] = None
        return True

    def expire_starts(self, document: str, before: datetime) -> None:
        key = (self._namespace, self._scope, document, document)
        self._execute(statements.LOSE_STARTS, *key, before)

    def end_stop(self, token: str, lease_until: datetime) -> None:
        self._execute(statements.END_STOP, lease_until, token)
        # An 'ended' intent need not be written again if the database is restored.
        self.intents[token] = None

    def forget_ended(self, kernel_id: str) -> None:
        self._execute(statements.DELETE_ENDED, self._namespace, kernel_id)

    def forget_ended_before(self, moment: datetime) -> None:
        self._execute(statements.DELETE_ENDED_BEFORE, self._namespace, self._scope, moment)

    # Endings

    def add_ending(self, session_id: str, reason: EndReason, ended: datetime) -> None:
        values = (self._namespace, session_id, reason.value, ended)
        self._execute(statements.INSERT_ENDING, *values)

    def remove_ending(self, session_id: str) -> None:
        self._execute(statements.DELETE_ENDING, self._namespace, session_id)

    def forget_endings_before(self, moment: datetime) -> None:
        self._execute(statements.DELETE_ENDINGS_BEFORE, self._namespace, moment)

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
            self._scope,
            owner.provider,
            owner.host,
            owner.boot_id,
            owner.process,
        )

    def stop_owner(self) -> None:
        self._execute(statements.STOP_OWNER, self._owner_id)

    def forget_owner(self, owner_id: str) -> bool:
        return self._execute(statements.DELETE_BARE_OWNER, owner_id) > 0

    # Steps

    def _execute(self, statement: str, *values: object) -> int:
        """Run the statement and return the number of rows that it changed."""
        return self._run(statement, values).rowcount

    def _sessions(self, statement: str, *values: object) -> list[Session]:
        return list(
            map(session_from_row, self._run(statement, (self._namespace, self._scope, *values)))
        )

    def _exists(self, statement: str, *values: object) -> bool:
        return self._run(statement, values).fetchone() is not None

    def _run(self, statement: str, values: Sequence[object]) -> Cursor[Any]:
        return self._connection.execute(statement, values)


def _columns(session: Session) -> dict[str, object]:
    """Return the values of the columns that may change."""
    return {
        "provider": session.provider,
        "path": session.path,
        "document": session.document,
        "name": session.name,
        "type": session.type,
        "kernel_id": session.kernel_id,
        "kernel_name": session.kernel_name,
        "last_activity": session.last_activity,
    }
