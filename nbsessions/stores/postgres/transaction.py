"""One transaction in the database, with the writes of SessionStore and the records of owners."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import Connection

from nbsessions.errors import InvalidRequest
from nbsessions.models import ABANDONED_AFTER, Owner
from nbsessions.stores.postgres import statements
from nbsessions.stores.postgres.owners import OtherOwner
from nbsessions.stores.postgres.tables import PostgresTables
from nbsessions.stores.sql.serving import Sharer
from nbsessions.stores.sql.transaction import SQLTransaction


class PostgresTransaction(SQLTransaction):
    """The writes for one namespace and scope, in a transaction that the caller has begun.

    Creating it locks the namespace, so that all its writes go one after the other.
    """

    def __init__(self, connection: Connection, namespace: str, owner: Owner) -> None:
        row = connection.execute(statements.LOCK_NAMESPACE, (namespace,)).fetchone()
        assert row is not None
        self.writes: int = row[0]
        """The number of this transaction in the namespace."""
        self.revision: int = row[1]
        """The number of the last transaction that changed sessions."""
        super().__init__(PostgresTables(connection, namespace, owner, row[2]), owner)
        self._connection = connection
        self._namespace = namespace

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        try:
            if self.is_for_one:
                yield
            else:
                with self._connection.transaction():
                    yield
        except psycopg.DataError as error:
            raise InvalidRequest("text", f"cannot be stored: {error}") from error

    def record_write(self, before: int) -> bool:
        """Record in the owner's row that this owner made this transaction.

        ``before`` is the number of the owner's previous one. Returns False when the database no
        longer has the owner's row, or lacks that transaction.
        """
        values = (self.writes, self._owner.owner_id, before)
        return self._connection.execute(statements.SIGN_WRITE, values).rowcount == 1

    def raise_writes_over(self, number: int) -> None:
        """Make the number of this transaction higher than this one, which is the last known one.

        Otherwise, readers could mistake new contents for older ones.
        """
        values = (number, self._namespace)
        row = self._connection.execute(statements.RAISE_WRITES_OVER, values).fetchone()
        assert row is not None
        self.writes = row[0]

    def raise_revision(self) -> None:
        """Record that this transaction has changed sessions."""
        self._connection.execute(statements.RAISE_REVISION, (self._namespace,))

    def forget_abandoned(self) -> None:
        """Remove owners that were silent for a month, with their sessions and intents.

        The sessions and the open intents of shared scopes stay.
        """
        values = {"namespace": self._namespace, "after": ABANDONED_AFTER}
        for statement in statements.DELETE_ABANDONED:
            self._connection.execute(statement, values)

    def find_sharers(self, scope: str) -> list[Sharer]:
        """Return the other owners in the namespace that serve a shared scope, or have intents."""
        values = {
            "scope": scope,
            "owner": self._owner.owner_id,
            "namespace": self._namespace,
        }
        found = self._connection.execute(statements.SELECT_SHARERS, values)
        return [OtherOwner.sharer(row, self._owner) for row in found]

    def forget_kernels(self) -> None:
        """Forget the ids of kernels that no session and no intent names any more."""
        self._connection.execute(statements.FORGET_KERNELS, {"namespace": self._namespace})
