"""The PostgreSQL session store. One thread writes, and reads use a cache checked each time."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

from nbsessions.models import Ending, EndReason, Intent, Orphans, Owner, Session, Takeover
from nbsessions.stores.cache import SessionCache
from nbsessions.stores.postgres import statements
from nbsessions.stores.postgres.database import Database
from nbsessions.stores.postgres.reads import Reads
from nbsessions.stores.postgres.rows import intent_from_row, intents_from_rows
from nbsessions.stores.postgres.schema import migrate
from nbsessions.stores.postgres.settings import check_namespace, connection_settings
from nbsessions.stores.postgres.transaction import PostgresTransaction
from nbsessions.stores.postgres.writer import Writer
from nbsessions.stores.sql.store import SQLSessionStore
from nbsessions.stores.sql.thread import ReaderThread

_OPEN_TIMEOUT = 10.0
"""Seconds for connecting and for migrating the tables, before this is tried again."""


def store_from_url(url: str, *, namespace: str, log: logging.Logger) -> PostgresSessionStore:
    """Return a store for a URL that libpq understands, such as ``postgresql://host/database``."""
    return PostgresSessionStore(connection_settings(url), namespace, log=log)


store_from_url.is_remote = True  # type: ignore[attr-defined]  # see StoreFactory


class PostgresSessionStore(SQLSessionStore[PostgresTransaction]):
    """Stores sessions in a database that any number of servers may share.

    Each read compares the revision of the cache with the revision in the database. If the scope
    is not shared, only this owner writes its sessions, so the cache has all of them. While the
    database cannot be read, they are returned from the cache then.
    """

    check_interval = 15.0
    can_be_replaced = False

    _writer: Writer | None = None
    _reads: Reads | None = None

    def __init__(
        self, settings: Mapping[str, str], namespace: str, *, log: logging.Logger
    ) -> None:
        """Prepare the store without connecting. ``settings`` are those of libpq."""
        self._namespace = check_namespace(namespace)
        self._log = log
        self._settings = settings
        self._database = Database(settings)
        self._thread = ReaderThread()

    # Lifecycle

    async def open(self, owner: Owner) -> None:
        await self._thread.run(self._open, owner)
        cache = SessionCache()
        self._writer = writer = Writer(
            self._database, cache, namespace=self._namespace, owner=owner, log=self._log
        )
        writer.begin()
        self._reads = Reads(
            self._database,
            writer,
            cache,
            self._thread,
            namespace=self._namespace,
            owner=owner,
            log=self._log,
        )

    def _open(self, owner: Owner) -> None:
        self._database.open()
        with self._database.connection(_OPEN_TIMEOUT) as connection:
            migrate(connection)
            with self._database.transaction(connection):
                transaction = PostgresTransaction(connection, self._namespace, owner)
                transaction.register(owner)
                transaction.forget_abandoned()
                transaction.forget_kernels()
        self._owner = owner

    def close(self, running: Collection[str] = ()) -> None:
        if self._writer is not None:
            self._writer.close(lambda transaction: transaction.mark_stopped(running))
        self._thread.close()
        self._database.close()

    async def heartbeat(self) -> None:
        await self.ensure_intact()

    async def ensure_intact(self) -> None:
        if not await self._opened(self._reads).check():
            # The writer brings the database up to date before each write.
            await self._opened(self._writer).heartbeat()

    # Reads

    async def find_intent(self, token: str) -> Intent | None:
        rows = await self._opened(self._reads).query(statements.SELECT_INTENT, token)
        return intent_from_row(rows[0]) if rows else None

    async def list_intents(self) -> Sequence[Intent]:
        key = (self._namespace, self._scope)
        rows = await self._opened(self._reads).query(statements.SELECT_INTENTS, *key)
        return intents_from_rows(rows)

    async def count_by_kernel(self, kernel_id: str) -> int:
        key = (self._namespace, self._scope, kernel_id)
        rows = await self._opened(self._reads).query(statements.COUNT_BY_KERNEL, *key)
        count: int = rows[0][0]
        return count

    async def find_endings(self, session_ids: Collection[str]) -> Mapping[str, Ending]:
        return await self._opened(self._reads).find_endings(session_ids)

    # Orphans

    async def find_orphans(self, adopted: Collection[str] = ()) -> Orphans:
        return await self._opened(self._reads).find_orphans(adopted)

    async def recover(
        self,
        orphans: Orphans,
        *,
        adopted: Collection[Session] = (),
        ended: Collection[tuple[Session, EndReason]] = (),
        undone: Collection[Intent] = (),
    ) -> Sequence[Session]:
        removed, _ = await self._write(
            lambda transaction: transaction.recover(orphans, adopted, ended, undone)
        )
        return removed

    # Scopes that no server serves

    def for_namespace(self, namespace: str) -> PostgresSessionStore:
        return PostgresSessionStore(self._settings, namespace, log=self._log)

    async def find_unserved(self, after: timedelta) -> Mapping[str, Collection[str]]:
        return await self._opened(self._reads).find_unserved(after)

    async def take_unserved(
        self,
        scope: str,
        *,
        after: timedelta | None = None,
        session_ids: Collection[str] | None = None,
    ) -> Takeover | None:
        return await self._write(
            lambda transaction: transaction.take_unserved(
                scope, transaction.find_sharers(scope), after, session_ids
            )
        )
