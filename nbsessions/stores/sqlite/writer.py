"""The writer of the file."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Sequence

from nbsessions.models import Owner
from nbsessions.stores.cache import SessionCache
from nbsessions.stores.sql.mark import Mark, StoreReverted
from nbsessions.stores.sql.writer import BatchWriter, Committed, Job, NothingWritten
from nbsessions.stores.sqlite.database import Database
from nbsessions.stores.sqlite.statements import SELECT_VERSION
from nbsessions.stores.sqlite.transaction import SQLiteTransaction


class Writer(BatchWriter[SQLiteTransaction]):
    """Owns the connection that writes.

    Before every write, the file is repaired if it is damaged, and brought up to date if it was
    replaced.
    """

    def __init__(
        self,
        database: Database,
        connection: sqlite3.Connection,
        cache: SessionCache,
        *,
        namespace: str,
        owner: Owner,
        log: logging.Logger,
    ) -> None:
        """See BatchWriter."""
        super().__init__(cache, owner, log=log)
        self._database = database
        self._connection: sqlite3.Connection | None = connection
        self._namespace = namespace

    def _commit(self, jobs: Sequence[Job]) -> Committed | None:
        try:
            return self._commit_once(jobs)
        except StoreReverted:
            # Opening the file again brings it up to date.
            self._disconnect()
            return self._commit_once(jobs)

    def _commit_once(self, jobs: Sequence[Job]) -> Committed | None:
        connection = self._connect()
        durable = any(job.durable for job in jobs)
        try:
            with self._database.transaction(connection, durable=durable):
                transaction = self._transaction(connection)
                before = transaction.raise_revision()
                known = before >= self.mark.revision
                if not known or not transaction.record_write(before + 1, self.mark.written):
                    raise StoreReverted
                committed = Committed(self._database.generation, before, before + 1)
                self._perform_all(transaction, jobs, committed)
        except NothingWritten:
            return None
        self._remember(committed, Mark(committed.after, committed.after))
        return committed

    def _commit_last(self, last: Callable[[SQLiteTransaction], None]) -> None:
        connection = self._connect()
        with self._database.transaction(connection):
            transaction = self._transaction(connection)
            transaction.raise_revision()
            last(transaction)

    def _transaction(self, connection: sqlite3.Connection) -> SQLiteTransaction:
        return SQLiteTransaction(connection, self._namespace, self._owner, self._database.rows)

    def _connect(self) -> sqlite3.Connection:
        """Return the connection, reopened after an error or if the file was replaced.

        Afterwards the file has all sessions and intents of this server.
        """
        if self._connection is not None:
            if self._database.is_replaced() or self._database.damage is not None:
                self._disconnect()
            else:
                self._database.renew_locks()
        if self._connection is None:
            if self._database.is_replaced():
                self._database.shut_out_readers()
            connection = self._database.open()
            try:
                with self._database.transaction(connection):
                    mark = self._bring_up_to_date(connection)
            except BaseException:
                connection.close()
                raise
            self.mark = mark
            self._database.needs_restore = False
            self._connection = connection
        return self._connection

    def _bring_up_to_date(self, connection: sqlite3.Connection) -> Mark:
        found = connection.execute(
            SELECT_VERSION, (self._namespace, self._owner.owner_id)
        ).fetchone()
        if self.mark.is_contained_in(*found) and not self._database.needs_restore:
            return self.mark
        revision, written = found
        forgotten = (
            written is None and revision >= self.mark.revision and not self._database.needs_restore
        )
        self._log.warning(
            "The session store %s %s. This server writes its sessions to it again.",
            self._database.path,
            "no longer has a record of this server"
            if forgotten
            else "was replaced or restored to an earlier state",
        )
        if forgotten:
            # The server that removed the record has also undone this server's starts and stops.
            self._intents.clear()
        transaction = self._transaction(connection)
        transaction.raise_revision_over(self.mark.revision)
        transaction.restore(self._known_sessions(), self._intents.values())
        revision = transaction.raise_revision() + 1
        transaction.record_write(revision, 0)
        return Mark(revision, revision)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()
