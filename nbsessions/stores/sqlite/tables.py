"""The tables in the file, as a transaction uses them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from nbsessions.errors import InvalidRequest
from nbsessions.models import Intent, Owner, Session, utcnow
from nbsessions.stores.sql.tables import SQLTables
from nbsessions.stores.sqlite import statements
from nbsessions.stores.sqlite.rows import RowReader, timestamp


class SQLiteTables(SQLTables):
    """The rows of one namespace and scope, on a connection that is in a transaction."""

    def __init__(
        self, connection: sqlite3.Connection, namespace: str, owner: Owner, rows: RowReader
    ) -> None:
        super().__init__(statements, namespace, owner, store_key=())
        self._connection = connection
        self._rows = rows

    def now(self) -> datetime:
        return utcnow()

    def find_by_document(self, document: str) -> Session | None:
        key = (*self._scope_key, document)
        return next(iter(self._select_sessions(statements.SELECT_BY_DOCUMENT, *key)), None)

    def is_kernel_used(self, kernel_id: str) -> bool:
        return self._exists(statements.SELECT_ANY_BY_KERNEL, kernel_id)

    def is_kernel_foreign(self, kernel_id: str) -> bool:
        key = (kernel_id, self._namespace)
        return self._exists(statements.SELECT_FOREIGN_KERNEL, *key, *key)

    def add_session(self, session: Session) -> Session:
        values = (
            self._namespace,
            session.session_id,
            session.scope,
            *_columns(session),
            timestamp(session.created),
            timestamp(session.last_activity),
        )
        try:
            cursor = self._connection.execute(statements.INSERT_SESSION, values)
        except sqlite3.IntegrityError as error:
            raise InvalidRequest(
                "session_id", f"{session.session_id!r} is the id of another session"
            ) from error
        assert cursor.lastrowid is not None
        session = replace(session, seq=cursor.lastrowid)
        self.changed[session.session_id] = session
        return session

    def change_session(self, session: Session) -> None:
        values = (*_columns(session), timestamp(session.last_activity), session.seq)
        self._execute(statements.UPDATE_SESSION, *values)
        self.changed[session.session_id] = session

    def expire_starts(self, document: str, first: datetime, last: datetime) -> None:
        values = (*self._scope_key, document, timestamp(first), timestamp(last))
        self._execute(statements.LOSE_STARTS, *values)

    def put_owner(self, owner: Owner) -> None:
        self._execute(
            statements.REGISTER_OWNER,
            owner.owner_id,
            self._namespace,
            self._scope,
            owner.host,
            owner.boot_id,
            owner.pid,
            timestamp(self.now()),
            owner.provider,
        )

    def stop_owner(self) -> None:
        self._execute(statements.STOP_OWNER, timestamp(self.now()), self._owner_id)

    # Steps

    def _execute(self, statement: str, *values: object) -> int:
        return self._connection.execute(statement, values).rowcount

    def _first(self, statement: str, *values: object) -> Sequence[Any] | None:
        row: Sequence[Any] | None = self._connection.execute(statement, values).fetchone()
        return row

    def _select_sessions(self, statement: str, *values: object) -> list[Session]:
        return self._rows.sessions(self._connection.execute(statement, values))

    def _select_intents(self, statement: str, *values: object) -> list[Intent]:
        return self._rows.intents(self._connection.execute(statement, values))

    def _moment(self, moment: datetime) -> str:
        return timestamp(moment)


def _columns(session: Session) -> tuple[str | None, ...]:
    """Return the values of the columns that may change, except the time of the change."""
    return (
        session.provider,
        session.path,
        session.document,
        session.name,
        session.type,
        session.kernel_id,
        session.kernel_name,
    )
