"""A read-only connection, reopened whenever the writer reopens the file."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping, Sequence

from nbsessions.errors import StoreUnavailable
from nbsessions.stores.cache import Version
from nbsessions.stores.sql.mark import Mark, StoreReverted
from nbsessions.stores.sqlite.database import Database
from nbsessions.stores.sqlite.statements import SELECT_VERSION


class Reader:
    """Runs queries on one connection, for one thread at a time."""

    def __init__(self, database: Database, *, busy_timeout: float) -> None:
        self._database = database
        self._busy_timeout = busy_timeout
        self._connection: sqlite3.Connection | None = None
        self._generation = 0
        self._lock = threading.RLock()
        database.close_readers.append(self.close)

    def query(
        self, statement: str, parameters: Sequence[object] | Mapping[str, object] = ()
    ) -> list[sqlite3.Row]:
        """Return the rows. Raises StoreError."""
        try:
            with self._lock:
                return self._connect().execute(statement, parameters).fetchall()
        except (sqlite3.Error, OSError) as error:
            raise self._database.error(error) from error

    def version(self, namespace: str, owner_id: str, mark: Mark) -> tuple[Version, int]:
        """Return the version of the namespace in the file, and the number of the last write.

        ``mark`` is the last write of the owner before this call. Raises StoreReverted
        when the file lacks this write, and StoreError for other problems.
        """
        ((revision, written),) = self.query(SELECT_VERSION, (namespace, owner_id))
        if not mark.is_contained_in(revision, written):
            raise StoreReverted
        return (self._generation, revision), written

    def snapshot(
        self,
        namespace: str,
        owner_id: str,
        mark: Mark,
        statement: str,
        parameters: Sequence[object],
    ) -> tuple[Version, list[sqlite3.Row]]:
        """Return the version and the rows from one transaction. Raises StoreError."""
        with self._lock:
            self.query("BEGIN")
            try:
                version, _ = self.version(namespace, owner_id, mark)
                return version, self.query(statement, parameters)
            finally:
                self.query("COMMIT")

    def close(self) -> None:
        """Close the connection after any running query. Idempotent. Safe from any thread."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def _connect(self) -> sqlite3.Connection:
        generation = self._database.generation
        if self._connection is None or self._generation != generation:
            self.close()
            if self._database.needs_restore or self._database.is_replaced():
                raise StoreUnavailable(
                    f"the session store {self._database.path} was removed or replaced"
                )
            self._connection = self._database.connect_reader(self._busy_timeout)
            self._generation = generation
        return self._connection
