"""The tables of sessions, intents, endings and owners, as a transaction uses them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from nbsessions.models import EndReason, Intent, Owner, Session, Verb
from nbsessions.stores.transaction import SharedStart, Tables


class Statements(Protocol):
    """The SQL statements that take the same values in all stores, as constants of a module."""

    ADOPT_SESSION: str
    CLAIM_INTENT: str
    COMPLETE_SHARED: str
    DELETE_BARE_OWNER: str
    DELETE_BY_ID: str
    DELETE_ENDED: str
    DELETE_ENDED_BEFORE: str
    DELETE_ENDING: str
    DELETE_ENDINGS_BEFORE: str
    DELETE_INTENT: str
    DELETE_INTENTS_OF_OWNER: str
    DELETE_INTENT_OF_VERB: str
    DELETE_ORPHAN: str
    DELETE_SCOPE: str
    DELETE_SESSION: str
    DELETE_SHARED_BEFORE: str
    END_STOP: str
    INSERT_ENDING: str
    INSERT_INTENT: str
    PUT_SHARED: str
    RENEW_START: str
    SELECT_BY_KERNEL: str
    SELECT_INTENTS: str
    SELECT_OPEN_INTENT: str
    SELECT_RECENT_INTENT: str
    SELECT_SESSION: str
    SELECT_SESSIONS: str
    SELECT_SHARED: str
    SELECT_WITHIN: str


class SQLTables(Tables):
    """The rows of one namespace and scope, in a transaction that the caller has begun.

    ``changed`` collects the changed sessions by id, for the store's cache. The value is None for
    a removed session. ``intents`` does the same for intents, by token.
    """

    def __init__(
        self, statements: Statements, namespace: str, owner: Owner, *, store_key: Sequence[str]
    ) -> None:
        """``store_key``: the first values of statements about the whole store."""
        self.changed: dict[str, Session | None] = {}
        self.intents: dict[str, Intent | None] = {}
        self._statements = statements
        self._namespace = namespace
        self._owner_id = owner.owner_id
        self._scope = owner.scope
        self._scope_key = (namespace, owner.scope)
        self._store_key = store_key

    # What each database does in its own way

    @abstractmethod
    def _execute(self, statement: str, *values: object) -> int:
        """Run the statement and return the number of rows that it changed."""

    @abstractmethod
    def _first(self, statement: str, *values: object) -> Sequence[Any] | None:
        """Return the first row of the statement's result, or None if there is none."""

    @abstractmethod
    def _select_sessions(self, statement: str, *values: object) -> list[Session]:
        """Return the sessions of the rows."""

    @abstractmethod
    def _select_intents(self, statement: str, *values: object) -> list[Intent]:
        """Return the intents of the rows, without those that this release does not know."""

    @abstractmethod
    def _moment(self, moment: datetime) -> object:
        """Return the time as the database stores it."""

    def _exists(self, statement: str, *values: object) -> bool:
        return self._first(statement, *values) is not None

    # Sessions

    def list_sessions(self) -> list[Session]:
        """Return all sessions, oldest first."""
        return self._select_sessions(self._statements.SELECT_SESSIONS, *self._scope_key)

    def find_session(self, session_id: str) -> Session | None:
        statement = self._statements.SELECT_SESSION
        return next(iter(self._select_sessions(statement, *self._scope_key, session_id)), None)

    def list_by_kernel(self, kernel_id: str) -> Sequence[Session]:
        statement = self._statements.SELECT_BY_KERNEL
        return self._select_sessions(statement, *self._scope_key, kernel_id)

    def list_within(self, top: str) -> Sequence[Session]:
        # Paths that begin with "top/" sort between "top/" and "top0", because "0" follows "/" and
        # the column is compared byte by byte.
        values = (*self._scope_key, top, f"{top}/", f"{top}0")
        return self._select_sessions(self._statements.SELECT_WITHIN, *values)

    def remove_session(self, session: Session) -> None:
        self._execute(self._statements.DELETE_SESSION, *self._store_key, session.seq)
        self.changed[session.session_id] = None

    # Intents

    def list_intents(self) -> list[Intent]:
        """Return all intents, oldest first."""
        return self._select_intents(self._statements.SELECT_INTENTS, *self._scope_key)

    def has_intent(self, kernel_id: str, *, ended_since: datetime | None = None) -> bool:
        key = (*self._store_key, kernel_id)
        if ended_since is None:
            return self._exists(self._statements.SELECT_OPEN_INTENT, *key)
        moment = self._moment(ended_since)
        return self._exists(self._statements.SELECT_RECENT_INTENT, *key, moment)

    def add_intent(self, intent: Intent, lease_until: datetime) -> bool:
        # Inserts nothing if the document has a 'start' already, because of a unique index.
        added = self._execute(
            self._statements.INSERT_INTENT,
            intent.token,
            self._namespace,
            intent.scope,
            intent.document,
            intent.verb.value,
            intent.kernel_id,
            self._owner_id,
            self._moment(lease_until),
        )
        if added:
            self.intents[intent.token] = intent
        return added > 0

    def renew_start(self, token: str, lease_until: datetime) -> None:
        self._execute(self._statements.RENEW_START, self._moment(lease_until), token)

    def remove_intent(self, token: str, verb: Verb) -> bool:
        if not self._execute(self._statements.DELETE_INTENT_OF_VERB, token, verb.value):
            return False
        self.intents[token] = None
        return True

    def end_stop(self, token: str, lease_until: datetime) -> None:
        self._execute(self._statements.END_STOP, self._moment(lease_until), token)
        # An 'ended' intent need not be written again if the store is restored.
        self.intents[token] = None

    def forget_ended(self, kernel_id: str) -> None:
        self._execute(self._statements.DELETE_ENDED, *self._store_key, kernel_id)

    def forget_ended_before(self, moment: datetime) -> None:
        values = (*self._scope_key, self._moment(moment))
        self._execute(self._statements.DELETE_ENDED_BEFORE, *values)

    def delete_intent(self, token: str) -> None:
        """Remove the intent, if it exists."""
        self._execute(self._statements.DELETE_INTENT, token)

    # Starts that can be shared

    def find_shared(self, key: str, first: datetime, last: datetime) -> SharedStart | None:
        between = (self._moment(first), self._moment(last))
        values = (*between, *self._scope_key, key, *between)
        row = self._first(self._statements.SELECT_SHARED, *values)
        return None if row is None else SharedStart(row[0])

    def put_shared(self, key: str, token: str, until: datetime) -> None:
        values = (*self._scope_key, key, token, self._moment(until))
        self._execute(self._statements.PUT_SHARED, *values)

    def complete_shared(self, key: str, token: str, kernel_id: str, until: datetime) -> None:
        values = (kernel_id, self._moment(until), *self._scope_key, key, token)
        self._execute(self._statements.COMPLETE_SHARED, *values)

    def forget_shared_before(self, moment: datetime) -> None:
        values = (*self._store_key, self._moment(moment))
        self._execute(self._statements.DELETE_SHARED_BEFORE, *values)

    # Endings

    def add_ending(self, session_id: str, reason: EndReason, ended: datetime) -> None:
        values = (self._namespace, session_id, reason.value, self._moment(ended))
        self._execute(self._statements.INSERT_ENDING, *values)

    def remove_ending(self, session_id: str) -> None:
        self._execute(self._statements.DELETE_ENDING, self._namespace, session_id)

    def forget_endings_before(self, moment: datetime) -> None:
        values = (*self._store_key, self._moment(moment))
        self._execute(self._statements.DELETE_ENDINGS_BEFORE, *values)

    # Other scopes

    def list_sessions_of(self, scope: str) -> list[Session]:
        """Return all sessions of another scope, oldest first."""
        return self._select_sessions(self._statements.SELECT_SESSIONS, self._namespace, scope)

    def list_open_intents_of(self, scope: str) -> list[Intent]:
        """Return the intents of another scope that are not completed, oldest first."""
        key = (self._namespace, scope)
        intents = self._select_intents(self._statements.SELECT_INTENTS, *key)
        return [intent for intent in intents if intent.verb is not Verb.ENDED]

    # Whole scopes, and what other owners have

    def clear(self) -> None:
        """Remove the sessions of the scope and the intents of the owner."""
        self._execute(self._statements.DELETE_SCOPE, *self._scope_key)
        self._execute(self._statements.DELETE_INTENTS_OF_OWNER, self._owner_id)

    def delete_session_anywhere(self, session_id: str) -> None:
        """Remove the session from whatever scope of the namespace has it."""
        self._execute(self._statements.DELETE_BY_ID, self._namespace, session_id)

    def claim(self, intent: Intent) -> bool:
        """Make the intent one of this owner, unless it is gone or has another owner by now.

        A 'start' becomes 'lost', because the other owner may still be alive.
        """
        values = (self._owner_id, intent.token, intent.owner)
        return self._execute(self._statements.CLAIM_INTENT, *values) > 0

    def adopt(self, session: Session) -> bool:
        """Give the session this scope and its provider, unless it has another scope by now."""
        key = (self._namespace, session.session_id, session.scope)
        values = (self._scope, session.provider, *key)
        return self._execute(self._statements.ADOPT_SESSION, *values) > 0

    def remove_orphan(self, session: Session) -> bool:
        """Remove the session, unless it has another scope or kernel by now."""
        key = (self._namespace, session.session_id, session.scope, session.kernel_id)
        return self._execute(self._statements.DELETE_ORPHAN, *key) > 0

    # Owners

    @abstractmethod
    def put_owner(self, owner: Owner) -> None:
        """Insert the owner's row as alive, or renew its heartbeat."""

    @abstractmethod
    def stop_owner(self) -> None:
        """Mark this owner as stopped."""

    def forget_owner(self, owner_id: str) -> bool:
        """Remove the owner's row if it has left nothing. Return whether it was removed."""
        return self._execute(self._statements.DELETE_BARE_OWNER, owner_id) > 0
