"""The SQLite session store: one thread writes, and reads are answered from a checked cache."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TypeVar

from nbsessions.errors import StoreDamaged, StoreUnavailable
from nbsessions.models import Changes, Intent, Orphans, Owner, Release, Session
from nbsessions.stores.base import SessionStore
from nbsessions.stores.cache import SessionCache
from nbsessions.stores.sqlite.database import Database
from nbsessions.stores.sqlite.owners import (
    is_abandoned,
    is_dead,
    remove_abandoned_locks,
    remove_locks,
)
from nbsessions.stores.sqlite.reads import Reads
from nbsessions.stores.sqlite.statements import (
    COUNT_BY_KERNEL,
    SELECT_BY_KERNEL_ELSEWHERE,
    SELECT_INTENT,
    SELECT_INTENTS,
    SELECT_OTHER_OWNERS,
    SELECT_SESSIONS,
)
from nbsessions.stores.sqlite.thread import ReaderThread
from nbsessions.stores.sqlite.transaction import SQLiteTransaction
from nbsessions.stores.sqlite.writer import Operation, Writer
from nbsessions.stores.transaction import unless_lost

T = TypeVar("T")


class SQLiteSessionStore(SessionStore):
    """Keeps sessions in a file that several servers of one user may share.

    This owner alone writes the sessions of its scope, so the cache holds them all. Each read
    checks it against the revision in the file. While the file cannot be read, sessions are
    answered from the cache.
    """

    def __init__(
        self,
        path: Path,
        namespace: str,
        *,
        log: logging.Logger,
        private_folder: bool = False,
        busy_timeout: float = 5.0,
    ) -> None:
        """``private_folder``: the file's folder is ours, made if need be and kept at 0700.

        ``busy_timeout``: seconds that a write waits for other processes.
        """
        # Log, locks and permissions belong to the file itself, not to a link that leads to it.
        self.path = path = path.resolve()
        self._namespace = namespace
        self._log = log
        self._busy_timeout = busy_timeout
        self._database = Database(
            path, private_folder=private_folder, busy_timeout=busy_timeout, log=log
        )
        self._thread = ReaderThread()
        self._owner: Owner | None = None
        self._connection: sqlite3.Connection | None = None
        """The writer's, which may replace it."""
        self._writer: Writer | None = None
        self._reads: Reads | None = None

    # Life

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
        self._writer = writer
        self._reads = Reads(
            self._database,
            writer,
            cache,
            self._thread,
            namespace=self._namespace,
            scope=owner.owner_id,
            busy_timeout=self._busy_timeout,
            log=self._log,
        )

    def _open(self, owner: Owner) -> sqlite3.Connection:
        try:
            try:
                connection = self._open_and_register(owner)
            except StoreDamaged:
                # Some damage shows only when the file is used. It is repaired now.
                connection = self._open_and_register(owner)
        except BaseException:
            self._database.close()
            raise
        self._database.lost = False
        # Both are set here, because whoever awaits this may be cancelled.
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
        # Locked before the owner is entered: whoever finds the row finds the lock held.
        self._database.own(owner.owner_id)
        rows = self._database.rows
        with self._database.transaction(connection):
            transaction = SQLiteTransaction(connection, self._namespace, owner.owner_id, rows)
            transaction.register(owner)
            transaction.import_stock()
            forgotten = transaction.forget_owners(
                lambda row: is_dead(row, owner, self.path, rows),
                lambda row: is_abandoned(row, self.path, rows),
            )
        remove_locks(self.path, forgotten)
        remove_abandoned_locks(self.path)

    def close(self, running: Collection[str] = ()) -> None:
        signed_off = False
        if self._writer is not None:
            signed_off = self._writer.close(lambda transaction: transaction.sign_off(running))
        self._thread.close()
        if self._writer is None and self._connection is not None:
            self._connection.close()
        if self._reads is not None:
            self._reads.close()
        # Where no row tells of the stop, the lock file proves it by being free.
        self._database.close(remove_owner=signed_off or self._owner is None)

    async def heartbeat(self) -> None:
        await self._opened(self._writer).heartbeat()

    async def ensure_intact(self) -> None:
        writer = self._opened(self._writer)
        if self._database.log_is_large():
            self._database.checkpoint_soon()
        elif await self._opened(self._reads).is_intact():
            return
        # Before it writes anything, the writer brings the file up to date.
        await writer.heartbeat()

    # Reads

    async def list_sessions(self) -> Sequence[Session]:
        return (await self._refreshed()).list_sessions()

    async def find_session(self, session_id: str) -> Session | None:
        return (await self._refreshed()).find(session_id)

    async def find_by_document(self, document: str) -> Session | None:
        return (await self._refreshed()).find_by_document(document)

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

    async def count_holders(self, kernel_id: str) -> int:
        reads = self._opened(self._reads)
        rows = await reads.query(COUNT_BY_KERNEL, (self._namespace, self._scope, kernel_id))
        count: int = rows[0][0]
        return count

    # Writes

    async def acquire(self, intent: Intent) -> Session | None:
        # A power cut ends a local kernel too, so its intent need not survive one.
        durable = intent.scope != self._scope
        return await self._write(lambda transaction: transaction.acquire(intent), durable=durable)

    async def commit(self, token: str, session: Session) -> Session:
        return unless_lost(
            await self._write(lambda transaction: transaction.commit(token, session))
        )

    async def drop_start(self, token: str) -> None:
        await self._write(lambda transaction: transaction.drop_start(token), durable=False)

    async def attach(self, session: Session) -> Session:
        return await self._write(lambda transaction: transaction.attach(session))

    async def insert(self, session: Session) -> Session:
        return await self._write(lambda transaction: transaction.insert(session))

    async def update(
        self,
        session_id: str,
        changes: Changes,
        *,
        start_token: str | None = None,
        stop_token: str,
        force: bool = False,
    ) -> Release:
        outcome = await self._write(
            lambda transaction: transaction.update(
                session_id, changes, start_token=start_token, stop_token=stop_token, force=force
            )
        )
        return unless_lost(outcome)

    async def rename_document(self, old: str, new: str) -> Sequence[Session]:
        return await self._write(lambda transaction: transaction.rename_document(old, new))

    async def delete(self, session_id: str, *, stop_token: str, force: bool = False) -> Release:
        return await self._write(
            lambda transaction: transaction.delete(session_id, stop_token=stop_token, force=force)
        )

    async def finish_stop(self, token: str) -> None:
        await self._write(lambda transaction: transaction.finish_stop(token), durable=False)

    async def end_sessions(self, sessions: Collection[Session]) -> Sequence[Session]:
        return await self._write(lambda transaction: transaction.end_sessions(sessions))

    # What others left behind

    async def find_orphans(self, adopted: Collection[str] = ()) -> Orphans:
        return await self._opened(self._reads).run(self._find_orphans, adopted)

    def _find_orphans(self, adopted: Collection[str]) -> Orphans:
        owner, reads = self._opened(self._owner), self._opened(self._reads)
        query, rows, namespace = reads.query_in_thread, self._database.rows, self._namespace
        others = query(SELECT_OTHER_OWNERS, (namespace, owner.owner_id))
        dead = {
            row["owner"]: str(row["provider"])
            for row in others
            if is_dead(row, owner, self.path, rows)
        }
        found: list[sqlite3.Row] = []
        intents: list[Intent] = []
        for owner_id in dead:
            found.extend(query(SELECT_SESSIONS, (namespace, owner_id)))
            intents.extend(rows.intents(query(SELECT_INTENTS, (namespace, owner_id))))
        for kernel_id in adopted:
            found.extend(query(SELECT_BY_KERNEL_ELSEWHERE, (namespace, owner.owner_id, kernel_id)))
        # A dead owner's session of an adopted kernel is in both.
        sessions = {session.seq: session for session in rows.sessions(found)}
        return Orphans(owners=dead, sessions=tuple(sessions.values()), intents=tuple(intents))

    async def recover(
        self,
        orphans: Orphans,
        *,
        adopted: Collection[Session] = (),
        ended: Collection[Session] = (),
        undone: Collection[Intent] = (),
    ) -> Sequence[Session]:
        removed, forgotten = await self._write(
            lambda transaction: transaction.recover(orphans, adopted, ended, undone)
        )
        await self._thread.run(remove_locks, self.path, forgotten)
        return removed

    # Steps

    @property
    def _scope(self) -> str:
        return self._opened(self._owner).owner_id

    @staticmethod
    def _opened(part: T | None) -> T:
        if part is None:
            raise StoreUnavailable("the session store is not open")
        return part

    async def _refreshed(self) -> SessionCache:
        return await self._opened(self._reads).refresh()

    async def _write(self, operation: Operation[T], *, durable: bool = True) -> T:
        return await self._opened(self._writer).submit(operation, durable=durable)
