"""The SQLite session store. One thread writes, and reads use a cache checked against the file."""

from __future__ import annotations

import logging
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from nbsessions.errors import StoreDamaged, StoreUnavailable
from nbsessions.models import Ending, EndReason, Intent, Orphans, Owner, Session, Takeover
from nbsessions.stores.cache import SessionCache
from nbsessions.stores.sql.serving import Sharer, is_unserved
from nbsessions.stores.sql.store import SQLSessionStore
from nbsessions.stores.sql.thread import ReaderThread
from nbsessions.stores.sqlite.database import Database
from nbsessions.stores.sqlite.endings import find_endings
from nbsessions.stores.sqlite.errors import store_error
from nbsessions.stores.sqlite.folder import StoreFolder
from nbsessions.stores.sqlite.owners import (
    is_abandoned,
    is_dead,
    remove_abandoned_locks,
    remove_locks,
    sharer,
)
from nbsessions.stores.sqlite.reads import Reads
from nbsessions.stores.sqlite.statements import (
    COUNT_BY_KERNEL,
    SELECT_BY_KERNEL_ELSEWHERE,
    SELECT_INTENT,
    SELECT_INTENTS,
    SELECT_INTENTS_OF_OWNER,
    SELECT_OTHER_OWNERS,
    SELECT_SESSIONS,
    SELECT_SHARED_KERNELS_ELSEWHERE,
    SELECT_SHARERS_ELSEWHERE,
)
from nbsessions.stores.sqlite.transaction import SQLiteTransaction
from nbsessions.stores.sqlite.writer import Writer


class SQLiteSessionStore(SQLSessionStore[SQLiteTransaction]):
    """Stores sessions in a file that several servers of one user may share.

    Each read compares the revision of the cache with the revision in the file. If the scope is
    not shared, only this owner writes its sessions, so the cache has all of them. While the file
    cannot be read, they are returned from the cache then.
    """

    _writer: Writer | None = None
    _reads: Reads | None = None

    def __init__(
        self,
        path: Path,
        namespace: str,
        *,
        log: logging.Logger,
        private_folder: bool = False,
        busy_timeout: float = 5.0,
    ) -> None:
        """Prepare the store without opening the file.

        ``private_folder`` means that only nbsessions uses the file's folder, see StoreFolder.
        ``busy_timeout`` is the number of seconds that a write waits for other processes.
        """
        # The write-ahead log, the locks and the permissions belong to the file itself, not to a
        # symbolic link to it.
        folder = StoreFolder(path, private=private_folder)
        self.path = path = folder.path
        self._private_folder = private_folder
        self._namespace = namespace
        self._log = log
        self._busy_timeout = busy_timeout
        self._database = Database(path, folder, busy_timeout=busy_timeout, log=log)
        self._thread = ReaderThread()
        self._connection: sqlite3.Connection | None = None
        """The writer's first connection. The writer may replace it."""

    # Lifecycle

    async def open(self, owner: Owner) -> None:
        connection = await self._thread.run(self._open, owner)
        cache = SessionCache()
        writer = Writer(
            self._database,
            connection,
            cache,
            namespace=self._namespace,
            owner=owner,
            log=self._log,
        )
        writer.begin()
        self._writer = writer
        self._reads = Reads(
            self._database,
            writer,
            cache,
            self._thread,
            namespace=self._namespace,
            owner=owner,
            busy_timeout=self._busy_timeout,
            log=self._log,
        )

    def _open(self, owner: Owner) -> sqlite3.Connection:
        try:
            try:
                connection = self._open_and_register(owner)
            except StoreDamaged:
                # Some damage shows only when the file is used. The next open repairs it.
                connection = self._open_and_register(owner)
        except OSError as error:
            self._database.close()
            raise store_error(error, self.path) from error
        except BaseException:
            self._database.close()
            raise
        self._database.needs_restore = False
        # Set both here in the thread, because the task that awaits it may be cancelled.
        self._owner, self._connection = owner, connection
        return connection

    def _open_and_register(self, owner: Owner) -> sqlite3.Connection:
        connection = self._database.open()
        try:
            self._register(connection, owner)
        except BaseException:
            connection.close()
            raise
        return connection

    def _register(self, connection: sqlite3.Connection, owner: Owner) -> None:
        # Take the lock before inserting the row, so that another server that reads the row always
        # finds the lock held.
        self._database.lock_owner(owner.owner_id)
        rows = self._database.rows
        with self._database.transaction(connection):
            transaction = SQLiteTransaction(connection, self._namespace, owner, rows)
            transaction.register(owner)
            transaction.import_stock()
            forgotten = transaction.forget_owners(
                lambda row: is_dead(row, owner, self.path, rows),
                lambda row: is_abandoned(row, self.path, rows),
            )
        remove_locks(self.path, forgotten)
        remove_abandoned_locks(self.path)

    def close(self, running: Collection[str] = ()) -> None:
        stopped = False
        if self._writer is not None:
            stopped = self._writer.close(lambda transaction: transaction.mark_stopped(running))
        self._thread.close()
        if self._writer is None and self._connection is not None:
            self._connection.close()
        if self._reads is not None:
            self._reads.close()
        # If the stop could not be recorded in the owner's row, keep the lock file. Other servers
        # can then take the lock, which proves that this server has stopped.
        self._database.close(remove_owner=stopped or self._owner is None)

    async def heartbeat(self) -> None:
        await self._opened(self._writer).heartbeat()

    async def ensure_intact(self) -> None:
        writer = self._opened(self._writer)
        if self._database.log_is_large():
            self._database.checkpoint_soon()
        elif await self._opened(self._reads).is_intact():
            return
        # The writer brings the file up to date before each write.
        await writer.heartbeat()

    # Reads

    async def find_intent(self, token: str) -> Intent | None:
        rows = await self._opened(self._reads).query(SELECT_INTENT, (token,))
        intents = self._database.rows.intents(rows)
        if rows and not intents:
            raise StoreUnavailable(f"the intent {token} cannot be read")
        return intents[0] if intents else None

    async def list_intents(self) -> Sequence[Intent]:
        reads = self._opened(self._reads)
        rows = await reads.query(SELECT_INTENTS, (self._namespace, self._scope))
        return self._database.rows.intents(rows)

    async def count_by_kernel(self, kernel_id: str) -> int:
        reads = self._opened(self._reads)
        rows = await reads.query(COUNT_BY_KERNEL, (self._namespace, self._scope, kernel_id))
        count: int = rows[0][0]
        return count

    async def find_endings(self, session_ids: Collection[str]) -> Mapping[str, Ending]:
        reads, rows = self._opened(self._reads), self._database.rows
        key = (self._namespace, self._scope)
        return await reads.run(find_endings, reads.query_in_thread, rows, *key, session_ids)

    # Orphans

    async def find_orphans(self, adopted: Collection[str] = ()) -> Orphans:
        return await self._opened(self._reads).run(self._find_orphans, adopted)

    def _find_orphans(self, adopted: Collection[str]) -> Orphans:
        owner, reads = self._opened(self._owner), self._opened(self._reads)
        query, rows, namespace = reads.query_in_thread, self._database.rows, self._namespace
        others = query(SELECT_OTHER_OWNERS, (namespace, owner.owner_id, owner.scope))
        dead = {
            row["owner"]: str(row["provider"])
            for row in others
            if is_dead(row, owner, self.path, rows)
        }
        found: list[sqlite3.Row] = []
        intents: list[Intent] = []
        for owner_id in dead:
            found.extend(query(SELECT_SESSIONS, (namespace, owner_id)))
            key = (namespace, owner_id, owner.scope)
            intents.extend(rows.intents(query(SELECT_INTENTS_OF_OWNER, key)))
        for kernel_id in adopted:
            found.extend(query(SELECT_BY_KERNEL_ELSEWHERE, (namespace, owner.scope, kernel_id)))
        # Both queries return the session if a dead owner had the adopted kernel.
        sessions = {session.seq: session for session in rows.sessions(found)}
        return Orphans(owners=dead, sessions=tuple(sessions.values()), intents=tuple(intents))

    async def recover(
        self,
        orphans: Orphans,
        *,
        adopted: Collection[Session] = (),
        ended: Collection[tuple[Session, EndReason]] = (),
        undone: Collection[Intent] = (),
    ) -> Sequence[Session]:
        removed, forgotten = await self._write(
            lambda transaction: transaction.recover(orphans, adopted, ended, undone)
        )
        await self._thread.run(remove_locks, self.path, forgotten)
        return removed

    # Scopes that no server serves

    def for_namespace(self, namespace: str) -> SQLiteSessionStore:
        return SQLiteSessionStore(
            self.path,
            namespace,
            log=self._log,
            private_folder=self._private_folder,
            busy_timeout=self._busy_timeout,
        )

    async def find_unserved(self, after: timedelta) -> Mapping[str, Collection[str]]:
        return await self._opened(self._reads).run(self._find_unserved, after)

    def _find_unserved(self, after: timedelta) -> dict[str, set[str]]:
        owner, reads = self._opened(self._owner), self._opened(self._reads)
        values = {"scope": owner.scope, "owner": owner.owner_id, "namespace": self._namespace}
        # The kernels first: a namespace that is served only now is in the second answer.
        kernels = reads.query_in_thread(SELECT_SHARED_KERNELS_ELSEWHERE, values)
        sharers: defaultdict[str, list[Sharer]] = defaultdict(list)
        for row in reads.query_in_thread(SELECT_SHARERS_ELSEWHERE, values):
            sharers[row["namespace"]].append(self._sharer(row))
        found: defaultdict[str, set[str]] = defaultdict(set)
        for namespace, kernel_id in kernels:
            if is_unserved(sharers[namespace], after):
                found[namespace].add(kernel_id)
        return found

    async def take_unserved(
        self,
        scope: str,
        *,
        after: timedelta | None = None,
        session_ids: Collection[str] | None = None,
    ) -> Takeover | None:
        return await self._write(
            lambda transaction: transaction.take_unserved(
                scope, transaction.find_sharers(scope, self._sharer), after, session_ids
            )
        )

    def _sharer(self, row: sqlite3.Row) -> Sharer:
        return sharer(row, self._opened(self._owner), self.path, self._database.rows)
