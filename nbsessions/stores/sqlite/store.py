"""The SQLite session store: writes go to one thread, reads are answered from a checked cache."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from nbsessions.errors import StartLost, StoreError, StoreUnavailable
from nbsessions.locks import FileLock
from nbsessions.models import Changes, Intent, Orphans, Owner, Release, Session
from nbsessions.stores.base import SessionStore
from nbsessions.stores.cache import SessionCache, Version
from nbsessions.stores.sqlite.database import Database
from nbsessions.stores.sqlite.owners import is_dead, lock_path, remove_locks
from nbsessions.stores.sqlite.reader import Reader
from nbsessions.stores.sqlite.transactions import (
    COUNT_HOLDERS,
    SELECT_INTENT,
    SELECT_INTENTS,
    SELECT_OTHER_OWNERS,
    SELECT_SESSIONS,
    Transaction,
    intent_from_row,
    session_from_row,
)
from nbsessions.stores.sqlite.writer import Committed, Operation, Writer

T = TypeVar("T")


class SQLiteSessionStore(SessionStore):
    """Keeps sessions in a file that several servers of one user may share.

    This owner alone writes the sessions of its scope, so the cache holds them all. It is
    checked against the revision in the file at each read; a file that cannot be read does not
    keep anybody from their sessions.
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
        self.path = path
        self._namespace = namespace
        self._log = log
        self._database = Database(
            path, private_folder=private_folder, busy_timeout=busy_timeout, log=log
        )
        self._cache = SessionCache()
        self._writer: Writer | None = None
        self._checker = Reader(self._database, busy_timeout=0.0)
        self._reader = Reader(self._database, busy_timeout=busy_timeout)
        self._reader_thread = ThreadPoolExecutor(1, thread_name_prefix="nbsessions-reader")
        self._reloading: asyncio.Task[None] | None = None
        self._closed = False
        self._owner_lock: FileLock | None = None
        self._registered: Owner | None = None

    # Life

    async def open(self, owner: Owner) -> None:
        self._registered = owner
        loop = asyncio.get_running_loop()
        try:
            connection = await loop.run_in_executor(self._reader_thread, self._open, owner)
        except BaseException:
            self._let_go()
            raise
        self._writer = Writer(
            self._database,
            connection,
            namespace=self._namespace,
            scope=owner.owner_id,
            committed=self._apply,
            restore=self._restore,
            log=self._log,
        )

    def _open(self, owner: Owner) -> sqlite3.Connection:
        connection = self._database.open()
        try:
            self._lock_owner(owner)
            with self._database.transaction(connection):
                transaction = Transaction(connection, self._namespace, owner.owner_id)
                transaction.register(owner)
                transaction.import_stock()
                forgotten = transaction.forget_elsewhere(
                    lambda row: is_dead(row, owner, self.path)
                )
            remove_locks(self.path, forgotten)
            self._database.lost = False
        except BaseException:
            connection.close()
            raise
        return connection

    def _lock_owner(self, owner: Owner) -> None:
        # Locked before the owner is entered: whoever finds the row finds the lock held.
        path = lock_path(self.path, owner.owner_id)
        try:
            self._owner_lock = FileLock(path)
            self._owner_lock.acquire()
        except OSError as error:
            raise StoreUnavailable(f"the lock file {path} cannot be made: {error}") from error

    def _restore(self, transaction: Transaction, undelivered: Sequence[Committed]) -> None:
        # In the writer's thread, which is ahead of the cache by what is undelivered.
        sessions = {session.session_id: session for session in self._cache.list_sessions()}
        for committed in undelivered:
            for session_id, session in committed.changed.items():
                if session is None:
                    sessions.pop(session_id, None)
                else:
                    sessions[session_id] = session
        transaction.restore(self._owner, sorted(sessions.values(), key=lambda each: each.seq))

    def close(self, held: Collection[str] = ()) -> None:
        if self._writer is None:
            self._let_go()
        else:
            # Without a row that says so, a lock file that is free is what proves the death.
            signed_off = self._writer.close(lambda transaction: transaction.sign_off(held))
            self._let_go(remove_lock_file=signed_off)

    def _let_go(self, *, remove_lock_file: bool = True) -> None:
        self._closed = True
        self._reader_thread.shutdown(wait=True)
        self._checker.close()
        self._reader.close()
        lock, self._owner_lock = self._owner_lock, None
        if lock is not None:
            if remove_lock_file:
                with contextlib.suppress(OSError):
                    lock.path.unlink()
            lock.close()
        self._database.close()

    async def heartbeat(self) -> None:
        await self._write(lambda transaction: transaction.register(self._owner), durable=False)

    # Reads

    async def list_sessions(self) -> Sequence[Session]:
        await self._refresh()
        return self._cache.list_sessions()

    async def find_session(self, session_id: str) -> Session | None:
        await self._refresh()
        return self._cache.find(session_id)

    async def find_by_document(self, document: str) -> Session | None:
        await self._refresh()
        return self._cache.find_by_document(document)

    async def find_intent(self, token: str) -> Intent | None:
        rows = await self._read(SELECT_INTENT, (token,))
        return intent_from_row(rows[0]) if rows else None

    async def list_intents(self) -> Sequence[Intent]:
        rows = await self._read(SELECT_INTENTS, (self._namespace, self._scope))
        return [intent_from_row(row) for row in rows]

    async def count_holders(self, kernel_id: str) -> int:
        rows = await self._read(COUNT_HOLDERS, (self._namespace, self._scope, kernel_id))
        count: int = rows[0][0]
        return count

    # Writes

    async def acquire(self, intent: Intent) -> Session | None:
        # A power cut ends a local kernel too: its intent need not survive what it does not.
        durable = intent.scope != self._scope
        return await self._write(lambda transaction: transaction.acquire(intent), durable=durable)

    async def commit(self, token: str, session: Session) -> Session:
        outcome = await self._write(lambda transaction: transaction.commit(token, session))
        if isinstance(outcome, StartLost):
            raise outcome
        return outcome

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
        if isinstance(outcome, StartLost):
            raise outcome
        return outcome

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

    async def find_orphans(self) -> Orphans:
        return await self._in_reader_thread(self._find_orphans)

    def _find_orphans(self) -> Orphans:
        rows = self._reader.query(SELECT_OTHER_OWNERS, (self._namespace, self._scope))
        dead = tuple(row["owner"] for row in rows if is_dead(row, self._owner, self.path))
        sessions: list[Session] = []
        intents: list[Intent] = []
        for owner_id in dead:
            key = (self._namespace, owner_id)
            sessions.extend(map(session_from_row, self._reader.query(SELECT_SESSIONS, key)))
            intents.extend(map(intent_from_row, self._reader.query(SELECT_INTENTS, key)))
        return Orphans(owner_ids=dead, sessions=tuple(sessions), intents=tuple(intents))

    async def settle_orphans(
        self, orphans: Orphans, adopted: Collection[str]
    ) -> Sequence[Session]:
        removed = await self._write(
            lambda transaction: transaction.settle_orphans(orphans, adopted)
        )
        await self._in_reader_thread(remove_locks, self.path, orphans.owner_ids)
        return removed

    # Pieces

    @property
    def _owner(self) -> Owner:
        if self._registered is None:
            raise StoreUnavailable("the session store is not open")
        return self._registered

    @property
    def _scope(self) -> str:
        return self._owner.owner_id

    async def _write(self, operation: Operation[T], *, durable: bool = True) -> T:
        if self._writer is None:
            raise StoreUnavailable("the session store is not open")
        return await self._writer.submit(operation, durable=durable)

    def _apply(self, committed: Committed) -> None:
        self._cache.apply(
            committed.generation, committed.before, committed.after, committed.changed
        )

    async def _refresh(self) -> None:
        """Make sure that the cache shows what was committed before this call."""
        if self._database.wal and self._is_fresh():
            return
        if self._reloading is not None:
            # It may have read before this call: wait it out, it does not count.
            await asyncio.shield(self._reloading)
        if self._reloading is None:
            self._reloading = asyncio.ensure_future(self._reload())
            self._reloading.add_done_callback(self._reloaded)
        await asyncio.shield(self._reloading)

    def _is_fresh(self) -> bool:
        # On the event loop: it takes microseconds, and in WAL mode it waits for nobody.
        try:
            return self._cache.is_at(self._checker.version(self._namespace))
        except StoreError:
            return False

    async def _reload(self) -> None:
        try:
            if self._cache.is_at(
                await self._in_reader_thread(self._reader.version, self._namespace)
            ):
                return
            version, sessions = await self._in_reader_thread(self._read_all)
        except StoreError as error:
            self._log.debug("Sessions are listed from memory: %s", error)
        else:
            self._cache.replace(version, sessions)

    def _reloaded(self, task: asyncio.Task[None]) -> None:
        self._reloading = None

    def _read_all(self) -> tuple[Version, list[Session]]:
        version, rows = self._reader.snapshot(
            self._namespace, SELECT_SESSIONS, (self._namespace, self._scope)
        )
        return version, [session_from_row(row) for row in rows]

    async def _read(self, statement: str, parameters: Sequence[object]) -> list[sqlite3.Row]:
        return await self._in_reader_thread(self._reader.query, statement, parameters)

    async def _in_reader_thread(self, function: Callable[..., T], *arguments: object) -> T:
        if self._writer is None or self._closed:
            raise StoreUnavailable("the session store is not open")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reader_thread, function, *arguments)
