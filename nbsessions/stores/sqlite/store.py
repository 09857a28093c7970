"""The SQLite session store: writes go to one thread, reads are answered from a checked cache."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from nbsessions.errors import StartLost, StoreDamaged, StoreError, StoreUnavailable
from nbsessions.models import Changes, Intent, Orphans, Owner, Release, Session
from nbsessions.stores.base import SessionStore
from nbsessions.stores.cache import SessionCache, Version
from nbsessions.stores.sqlite.database import Database
from nbsessions.stores.sqlite.mark import Mark
from nbsessions.stores.sqlite.owners import (
    is_abandoned,
    is_dead,
    remove_abandoned_locks,
    remove_locks,
)
from nbsessions.stores.sqlite.reader import Reader, StoreReverted
from nbsessions.stores.sqlite.transactions import (
    COUNT_HOLDERS,
    SELECT_ELSEWHERE,
    SELECT_INTENT,
    SELECT_INTENTS,
    SELECT_OTHER_OWNERS,
    SELECT_SESSIONS,
    Transaction,
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
        # Where it leads by now: log, locks and permissions go by the file, not by links to it.
        self.path = path = path.resolve()
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
        self._bringing_back: asyncio.Task[None] | None = None
        self._closed = False
        self._registered: Owner | None = None
        self._connection: sqlite3.Connection | None = None
        """What the writer gets; it may replace it."""

    # Life

    async def open(self, owner: Owner) -> None:
        connection = await self._in_reader_thread(self._open, owner)
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
        try:
            try:
                connection = self._open_and_register(owner)
            except StoreDamaged:
                # Some damage is seen only when the file is used. It is repaired now.
                connection = self._open_and_register(owner)
        except BaseException:
            self._database.close()
            raise
        self._database.lost = False
        # Both here: whoever awaits this may be cancelled.
        self._registered, self._connection = owner, connection
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
        with self._database.transaction(connection):
            rows = self._database.rows
            transaction = Transaction(connection, self._namespace, owner.owner_id, rows)
            transaction.register(owner)
            transaction.import_stock()
            forgotten = transaction.forget_owners(
                lambda row: is_dead(row, owner, self.path, rows),
                lambda row: is_abandoned(row, self.path, rows),
            )
        remove_locks(self.path, forgotten)
        remove_abandoned_locks(self.path)

    def _restore(
        self,
        transaction: Transaction,
        undelivered: Sequence[Committed],
        intents: Sequence[Intent],
        revision: int,
    ) -> None:
        # In the writer's thread, which is ahead of the cache by what is undelivered.
        sessions = {session.session_id: session for session in self._cache.list_sessions()}
        for committed in undelivered:
            for session_id, session in committed.changed.items():
                if session is None:
                    sessions.pop(session_id, None)
                else:
                    sessions[session_id] = session
        by_age = sorted(sessions.values(), key=lambda each: each.seq)
        transaction.restore(self._owner, by_age, intents, revision)

    def close(self, held: Collection[str] = ()) -> None:
        self._closed = True
        # Without a row that says so, a lock file that is free is what proves the death.
        signed_off = False
        if self._writer is not None:
            signed_off = self._writer.close(lambda transaction: transaction.sign_off(held))
        self._reader_thread.shutdown(wait=True)
        if self._writer is None and self._connection is not None:
            self._connection.close()
        self._checker.close()
        self._reader.close()
        self._database.close(remove_owner=signed_off or self._registered is None)

    async def heartbeat(self) -> None:
        await self._write(lambda transaction: transaction.register(self._owner), durable=False)

    async def ensure_intact(self) -> None:
        self._check_open()
        if not await self._in_reader_thread(self._is_intact, self._mark):
            # Whatever is written, the writer brings the file up to date first.
            await self.heartbeat()

    def _is_intact(self, mark: Mark) -> bool:
        if self._database.log_is_large():
            self._database.checkpoint_soon()
            return False
        try:
            self._reader.version(self._namespace, self._scope, mark)
        except StoreError:
            return False
        return self._database.is_in_place() and self._database.damage is None

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
        intents = self._database.rows.intents(rows)
        if rows and not intents:
            raise StoreUnavailable(f"the intent {token} cannot be read")
        return intents[0] if intents else None

    async def list_intents(self) -> Sequence[Intent]:
        rows = await self._read(SELECT_INTENTS, (self._namespace, self._scope))
        return self._database.rows.intents(rows)

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

    async def find_orphans(self, adopted: Collection[str] = ()) -> Orphans:
        self._check_open()
        return await self._look_up(self._find_orphans, adopted)

    def _find_orphans(self, adopted: Collection[str]) -> Orphans:
        query, namespace = self._reader.query, self._namespace
        rows = query(SELECT_OTHER_OWNERS, (namespace, self._scope))
        read = self._database.rows
        dead = {
            row["owner"]: str(row["provider"])
            for row in rows
            if is_dead(row, self._owner, self.path, read)
        }
        sessions: dict[int, Session] = {}
        intents: list[Intent] = []
        found: list[sqlite3.Row] = []
        for owner_id in dead:
            found.extend(query(SELECT_SESSIONS, (namespace, owner_id)))
            intents.extend(read.intents(query(SELECT_INTENTS, (namespace, owner_id))))
        for kernel_id in adopted:
            found.extend(query(SELECT_ELSEWHERE, (namespace, self._scope, kernel_id)))
        for session in read.sessions(found):
            sessions[session.seq] = session
        return Orphans(owners=dead, sessions=tuple(sessions.values()), intents=tuple(intents))

    async def settle_orphans(
        self,
        orphans: Orphans,
        *,
        adopted: Collection[Session] = (),
        ended: Collection[Session] = (),
        undone: Collection[Intent] = (),
    ) -> Sequence[Session]:
        removed, forgotten = await self._write(
            lambda transaction: transaction.settle_orphans(orphans, adopted, ended, undone)
        )
        await self._in_reader_thread(remove_locks, self.path, forgotten)
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

    def _check_open(self) -> None:
        if self._writer is None:
            raise StoreUnavailable("the session store is not open")

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
            return self._cache.is_at(
                self._checker.version(self._namespace, self._scope, self._mark)
            )
        except StoreError:
            return False

    async def _reload(self) -> None:
        try:
            found = await self._in_reader_thread(self._read_unless_current, self._mark)
        except StoreError as error:
            self._log.debug("Sessions are listed from memory: %s", error)
        else:
            if found is None:
                # This owner alone writes its sessions: what it knows is written again.
                self._bring_back()
            elif found[1] is not None:
                self._cache.replace(found[0], found[1])

    def _reloaded(self, task: asyncio.Task[None]) -> None:
        self._reloading = None

    def _read_unless_current(self, mark: Mark) -> tuple[Version, list[Session] | None] | None:
        """Return the version, and the sessions unless they are cached; None: file was put back."""
        try:
            version = self._reader.version(self._namespace, self._scope, mark)
            if self._cache.is_at(version):
                return version, None
            version, rows = self._reader.snapshot(
                self._namespace, self._scope, mark, SELECT_SESSIONS, (self._namespace, self._scope)
            )
        except StoreReverted:
            return None
        return version, self._database.rows.sessions(rows)

    def _bring_back(self) -> None:
        if self._bringing_back is None:
            self._bringing_back = asyncio.ensure_future(self.heartbeat())
            self._bringing_back.add_done_callback(self._brought_back)

    def _brought_back(self, task: asyncio.Task[None]) -> None:
        self._bringing_back = None
        if not task.cancelled() and task.exception() is not None:
            self._log.debug("The session store is brought up to date later: %s", task.exception())

    @property
    def _mark(self) -> Mark:
        return Mark() if self._writer is None else self._writer.mark

    async def _read(self, statement: str, parameters: Sequence[object]) -> list[sqlite3.Row]:
        self._check_open()
        return await self._look_up(self._reader.query, statement, parameters)

    async def _look_up(self, function: Callable[..., T], *arguments: object) -> T:
        """Read, if need be after the repair of a file that turns out to be broken."""
        try:
            return await self._in_reader_thread(function, *arguments)
        except StoreDamaged:
            await self.heartbeat()
            return await self._in_reader_thread(function, *arguments)

    async def _in_reader_thread(self, function: Callable[..., T], *arguments: object) -> T:
        if self._closed:
            raise StoreUnavailable("the session store is closed")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reader_thread, function, *arguments)
