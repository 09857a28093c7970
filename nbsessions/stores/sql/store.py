"""The parts of SessionStore that are the same in all SQL stores."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Generic, TypeVar

from nbsessions.errors import StoreUnavailable
from nbsessions.models import Changes, Intent, Kernel, Owner, Release, Session, Sharing
from nbsessions.stores.base import START_LEASE, SessionStore
from nbsessions.stores.cache import SessionCache
from nbsessions.stores.sql.reads import CachedReads
from nbsessions.stores.sql.transaction import SQLTransaction
from nbsessions.stores.sql.writer import BatchWriter
from nbsessions.stores.transaction import raise_if_lost

T = TypeVar("T")
Tx = TypeVar("Tx", bound=SQLTransaction)


class SQLSessionStore(SessionStore, Generic[Tx]):
    """Reads sessions from a cache that is checked against the store, and writes in batches."""

    _owner: Owner | None = None
    """The owner that the store was opened for."""

    @property
    def _scope(self) -> str:
        """The scope of this store's owner. Raises StoreUnavailable before ``open``."""
        return self._opened(self._owner).scope

    _writer: BatchWriter[Tx] | None = None
    _reads: CachedReads | None = None

    async def _refreshed(self) -> SessionCache:
        return await self._opened(self._reads).refresh()

    async def _write(
        self, operation: Callable[[Tx], T], *, durable: bool = True, urgent: bool = True
    ) -> T:
        """Return the result of the operation after its transaction is committed."""
        writer = self._opened(self._writer)
        return await writer.submit(operation, durable=durable, urgent=urgent)

    @staticmethod
    def _opened(part: T | None) -> T:
        if part is None:
            raise StoreUnavailable("the session store is not open")
        return part

    # Reads

    async def list_sessions(self) -> Sequence[Session]:
        return (await self._refreshed()).snapshot()

    async def find_session(self, session_id: str) -> Session | None:
        return (await self._refreshed()).find(session_id)

    async def list_by_document(self, document: str) -> Sequence[Session]:
        return (await self._refreshed()).list_by_document(document)

    async def list_by_kernel(self, kernel_id: str) -> Sequence[Session]:
        return (await self._refreshed()).list_by_kernel(kernel_id)

    # Writes

    async def acquire(
        self, intent: Intent, *, sharing: Sharing | None = None, lease: timedelta = START_LEASE
    ) -> Session | Kernel | None:
        # A power failure ends local kernels too, so their intents need not survive it.
        durable = bool(self._opened(self._owner).shared_scope)
        return await self._write(
            lambda transaction: transaction.acquire(intent, sharing, lease), durable=durable
        )

    async def commit(
        self,
        token: str,
        session: Session,
        *,
        sharing: Sharing | None = None,
        urgent: bool = True,
    ) -> Session:
        outcome = await self._write(
            lambda transaction: transaction.commit(token, session, sharing), urgent=urgent
        )
        return raise_if_lost(outcome)

    def hurry(self) -> None:
        if self._writer is not None:
            self._writer.hurry()

    async def renew(self, token: str, *, lease: timedelta = START_LEASE) -> None:
        await self._write(lambda transaction: transaction.renew(token, lease), durable=False)

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
        return raise_if_lost(outcome)

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

    async def end_kernel(
        self, kernel_id: str, session_ids: Collection[str], *, stop_token: str
    ) -> Sequence[Session] | None:
        return await self._write(
            lambda transaction: transaction.end_kernel(
                kernel_id, session_ids, stop_token=stop_token
            )
        )

    # Orphans

    async def claim(self, intents: Collection[Intent]) -> Sequence[Intent]:
        return await self._write(lambda transaction: transaction.claim(intents))
