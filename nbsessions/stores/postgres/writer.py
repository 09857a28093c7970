"""The writer of the database."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence

from nbsessions.errors import StoreError, StoreUncertain
from nbsessions.models import Owner
from nbsessions.stores.cache import SessionCache
from nbsessions.stores.postgres.database import (
    Conflict,
    ConnectionLost,
    Database,
    TimedConnection,
)
from nbsessions.stores.postgres.schema import migrate
from nbsessions.stores.postgres.statements import LOCK_NAMESPACE, SELECT_WRITTEN
from nbsessions.stores.postgres.transaction import PostgresTransaction
from nbsessions.stores.sql.mark import Mark, StoreReverted
from nbsessions.stores.sql.writer import BatchWriter, Committed, Job, NothingWritten

_TRANSACTION_TIMEOUT = 6.0
"""Seconds for one attempt. The database itself allows each statement 5 seconds."""

_BATCH_TIMEOUT = 10.0
"""Seconds after which a batch is not tried again."""

_FIRST_PAUSE, _LAST_PAUSE = 0.02, 0.5
"""Seconds before the second attempt, and between later ones at the most."""

_SETTLE_TIMEOUT = 5.0
"""Seconds to find out whether a commit succeeded."""


class Writer(BatchWriter[PostgresTransaction]):
    """Writes by one connection at a time, and repeats what the database could not finish."""

    def __init__(
        self,
        database: Database,
        cache: SessionCache,
        *,
        namespace: str,
        owner: Owner,
        log: logging.Logger,
    ) -> None:
        """See BatchWriter."""
        super().__init__(cache, owner, log=log)
        self._database = database
        self._namespace = namespace
        self._generation = 0
        self._is_reverted = False

    @property
    def generation(self) -> int:
        """How many times this server has restored its sessions. Safe to read from any thread."""
        return self._generation

    def _commit(self, jobs: Sequence[Job]) -> Committed | None:
        deadline, pause = time.monotonic() + _BATCH_TIMEOUT, _FIRST_PAUSE
        while True:
            try:
                if self._is_reverted:
                    self._restore()
                return self._commit_once(jobs)
            except (StoreReverted, Conflict, ConnectionLost) as error:
                is_reverted = isinstance(error, StoreReverted)
                # What cannot be restored now is tried again with the next batch.
                if time.monotonic() > deadline or (is_reverted and self._is_reverted):
                    raise
                self._is_reverted |= is_reverted
            time.sleep(random.uniform(0.0, pause))
            pause = min(2 * pause, _LAST_PAUSE)
            for job in jobs:
                job.outcome = job.error = None

    def _commit_once(self, jobs: Sequence[Job]) -> Committed | None:
        with self._database.connection(_TRANSACTION_TIMEOUT) as connection:
            try:
                with self._database.transaction(connection):
                    transaction = self._begin(connection)
                    committed = Committed(
                        self._generation, transaction.revision, transaction.revision
                    )
                    self._perform_all(transaction, jobs, committed)
                    if committed.changed:
                        transaction.raise_revision()
                        committed.after = transaction.writes
            except NothingWritten:
                return None
            except StoreUncertain as error:
                if not self._was_committed(transaction.writes, error):
                    raise ConnectionLost(str(error)) from error
        self._remember(committed, Mark(committed.after, transaction.writes))
        return committed

    def _begin(self, connection: TimedConnection) -> PostgresTransaction:
        transaction = PostgresTransaction(connection, self._namespace, self._owner)
        is_known = transaction.revision >= self.mark.revision
        if not is_known or not transaction.record_write(self.mark.written):
            raise StoreReverted
        return transaction

    def _was_committed(self, writes: int, error: StoreUncertain) -> bool:
        """Find out whether a transaction of this writer was committed. Raises ``error`` if not."""
        deadline = time.monotonic() + _SETTLE_TIMEOUT
        while True:
            try:
                with (
                    self._database.connection(_TRANSACTION_TIMEOUT) as connection,
                    self._database.transaction(connection),
                ):
                    # This waits until the transaction in question has come to its end.
                    connection.execute(LOCK_NAMESPACE, (self._namespace,))
                    row = connection.execute(SELECT_WRITTEN, (self._owner.owner_id,)).fetchone()
                    raise _Settled(row is not None and row[0] == writes)
            except _Settled as settled:
                return settled.was_committed
            except StoreError:
                if time.monotonic() > deadline:
                    raise error from None
                time.sleep(0.2)

    def _restore(self) -> None:
        """Write all sessions and intents of this server to the database again."""
        with self._database.connection(_TRANSACTION_TIMEOUT) as connection:
            migrate(connection)  # Somebody may have removed the tables, too.
            with self._database.transaction(connection):
                transaction = self._write_again(connection)
        self._generation += 1
        self.mark = Mark(transaction.writes, transaction.writes)
        self._is_reverted = False

    def _write_again(self, connection: TimedConnection) -> PostgresTransaction:
        transaction = PostgresTransaction(connection, self._namespace, self._owner)
        # Another server has removed this one's record, and undone its starts and stops.
        record = connection.execute(SELECT_WRITTEN, (self._owner.owner_id,)).fetchone()
        is_forgotten = record is None and transaction.revision >= self.mark.revision
        self._log.warning(
            "The session store %s %s. This server writes its sessions to it again.",
            self._database.name,
            "no longer has a record of this server"
            if is_forgotten
            else "was restored to an earlier state",
        )
        sessions = self._known_sessions()
        if is_forgotten:
            self._intents.clear()
            if self._owner.shared_scope:
                sessions = []  # The others have gone on with them.
        transaction.raise_writes_over(self.mark.written)
        transaction.restore(sessions, self._intents.values())
        transaction.record_write(0)
        transaction.raise_revision()
        return transaction

    def _commit_last(self, last: Callable[[PostgresTransaction], None]) -> None:
        try:
            self._commit_last_once(last)
        except (Conflict, ConnectionLost):
            self._commit_last_once(last)

    def _commit_last_once(self, last: Callable[[PostgresTransaction], None]) -> None:
        with (
            self._database.connection(_TRANSACTION_TIMEOUT) as connection,
            self._database.transaction(connection),
        ):
            transaction = self._begin(connection)
            last(transaction)
            transaction.forget_kernels()
            if transaction.tables.changed:
                transaction.raise_revision()

    def _disconnect(self) -> None:
        pass  # The pool replaces connections that are broken.


class _Settled(Exception):
    """Rolls back the transaction that has found out about another one."""

    def __init__(self, was_committed: bool) -> None:
        super().__init__()
        self.was_committed = was_committed
