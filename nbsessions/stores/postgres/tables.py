"""The tables in the database, as a transaction uses them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from msgspec.structs import replace
from psycopg import Connection

from nbsessions.errors import InvalidRequest
from nbsessions.models import Intent, Owner, Session
from nbsessions.stores.postgres import statements
from nbsessions.stores.postgres.rows import intents_from_rows, session_from_row
from nbsessions.stores.sql.tables import SQLTables


class PostgresTables(SQLTables):
    """The rows of one namespace and scope, on a connection that has locked the namespace.

    "In the store" means in the namespace, and in all namespaces for the ids of kernels.
    """

    def __init__(
        self, connection: Connection, namespace: str, owner: Owner, now: datetime
    ) -> None:
        """``now``: the time by the clock of the database, after the namespace was locked."""
        super().__init__(statements, namespace, owner, store_key=(namespace,))
        self._connection = connection
        self._now = now.astimezone(timezone.utc)

    def now(self) -> datetime:
        return self._now

    def find_by_document(self, document: str) -> Session | None:
        # The first one is for the index, which has only the beginning of long paths.
        key = (*self._scope_key, document, document)
        return next(iter(self._select_sessions(statements.SELECT_BY_DOCUMENT, *key)), None)

    def is_kernel_used(self, kernel_id: str) -> bool:
        if self._exists(statements.SELECT_ANY_BY_KERNEL, self._namespace, kernel_id):
            return True
        return self.is_kernel_foreign(kernel_id)

    def is_kernel_foreign(self, kernel_id: str) -> bool:
        # The rows of another namespace cannot be seen if roles separate them.
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

    def expire_starts(self, document: str, first: datetime, last: datetime) -> None:
        values = (*self._scope_key, document, document, first, last)
        self._execute(statements.LOSE_STARTS, *values)

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

    # Steps

    def _execute(self, statement: str, *values: object) -> int:
        return self._connection.execute(statement, values).rowcount

    def _first(self, statement: str, *values: object) -> Sequence[Any] | None:
        row: Sequence[Any] | None = self._connection.execute(statement, values).fetchone()
        return row

    def _select_sessions(self, statement: str, *values: object) -> list[Session]:
        return list(map(session_from_row, self._connection.execute(statement, values)))

    def _select_intents(self, statement: str, *values: object) -> list[Intent]:
        return intents_from_rows(self._connection.execute(statement, values))

    def _moment(self, moment: datetime) -> datetime:
        return moment


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
