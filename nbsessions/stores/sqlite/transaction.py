"""One transaction on the file, with the writes of SessionStore and the records of owners."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nbsessions.models import ABANDONED_AFTER, Owner, utcnow
from nbsessions.stores.sql.serving import Sharer
from nbsessions.stores.sql.transaction import SQLTransaction
from nbsessions.stores.sqlite import statements
from nbsessions.stores.sqlite.rows import RowReader, timestamp
from nbsessions.stores.sqlite.stock import STOCK_SCOPE, is_stock_file, read_stock_sessions
from nbsessions.stores.sqlite.tables import SQLiteTables


class SQLiteTransaction(SQLTransaction):
    """The writes for one namespace and scope, in a transaction that the caller has begun."""

    def __init__(
        self, connection: sqlite3.Connection, namespace: str, owner: Owner, rows: RowReader
    ) -> None:
        super().__init__(SQLiteTables(connection, namespace, owner, rows), owner)
        self._connection = connection
        self._namespace = namespace

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        if self.is_for_one:
            yield
            return
        self._execute("SAVEPOINT operation")
        try:
            yield
        except BaseException:
            # After some errors, such as a full disk, SQLite has rolled back everything.
            if self._connection.in_transaction:
                self._execute("ROLLBACK TO operation")
                self._execute("RELEASE operation")
            raise
        self._execute("RELEASE operation")

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

    def raise_revision_over(self, revision: int) -> None:
        """Make the revision higher than this one, which is the last known one.

        Otherwise, readers could mistake new contents for older ones.
        """
        self.raise_revision()
        self._execute(statements.RAISE_REVISION_OVER, revision, self._namespace)

    def record_write(self, revision: int, before: int) -> bool:
        """Record in the owner's row that this owner wrote this revision.

        ``before`` is the revision of the owner's previous write. Returns False when the file no
        longer has the owner's row, or lacks that write.
        """
        owner_id = self._owner.owner_id
        return self._execute(statements.SIGN_WRITE, revision, owner_id, before) == 1

    # Other owners, and sessions of jupyter_server

    def find_sharers(self, scope: str, sharer: Callable[[sqlite3.Row], Sharer]) -> list[Sharer]:
        """Return the other owners in the namespace that serve a shared scope, or have intents."""
        values = {
            "scope": scope,
            "owner": self._owner.owner_id,
            "namespace": self._namespace,
        }
        rows = self._connection.execute(statements.SELECT_SHARERS, values).fetchall()
        return [sharer(row) for row in rows]

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

    def forget_owners(
        self, is_dead: Callable[[sqlite3.Row], bool], is_abandoned: Callable[[sqlite3.Row], bool]
    ) -> list[str]:
        """Remove empty dead owners of other namespaces, and all abandoned owners.

        An empty owner has no sessions and no intents. Abandoned owners are removed together with
        their sessions and intents, but the sessions and open intents of shared scopes stay.
        Returns the ids of the removed owners.
        """
        key = (self._namespace,)
        bare = self._connection.execute(statements.SELECT_BARE_OWNERS, key)
        forgotten = [row["owner"] for row in bare if is_dead(row)]
        owners = self._connection.execute(statements.SELECT_ALL_OWNERS)
        abandoned = [row["owner"] for row in owners if is_abandoned(row)]
        for owner_id in abandoned:
            self._execute(statements.DELETE_SCOPE_EVERYWHERE, owner_id)
            self._execute(statements.DELETE_INTENTS_OF_ABANDONED, owner_id)
        for owner_id in (*forgotten, *abandoned):
            self._execute(statements.DELETE_BARE_OWNER, owner_id)
        before = timestamp(utcnow() - ABANDONED_AFTER)
        self._execute(statements.DELETE_UNOWNED_SESSIONS, before)
        self._execute(statements.DELETE_UNOWNED_INTENTS, before)
        self._execute(statements.DELETE_EMPTY_NAMESPACES, *key)
        return [*forgotten, *abandoned]

    # Steps

    def _execute(self, statement: str, *values: object) -> int:
        """Run the statement and return the number of rows that it changed."""
        return self._connection.execute(statement, values).rowcount
