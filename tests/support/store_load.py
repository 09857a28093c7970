"""Tasks that use a store without a pause while it fails, and check what it has answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nbsessions.errors import StoreUnavailable, StoreUncertain
from nbsessions.models import Verb
from nbsessions.stores.base import SessionStore
from support.stores import Stores, ids
from support.values import make_id, make_session, make_start

_PATIENCE = 60.0
"""Seconds within which the store has to recover."""


class Load:
    """Starts, deletes and lists sessions, and notes what the store has acknowledged."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._done = asyncio.Event()
        self._count = 0
        self.kept: set[str] = set()
        """The sessions that must be in the store."""
        self.unknown: set[str] = set()
        """Those that may be there, because their commit or deletion is uncertain."""
        self.missing: set[str] = set()
        """The sessions that a list lacked although they were in the store all the time."""
        self.slowest_list = 0.0
        """How many seconds the slowest list took."""

    async def more(self, count: int = 30) -> None:
        """Wait until this number of further writes was acknowledged."""
        wanted = self._count + count
        deadline = time.monotonic() + _PATIENCE
        while self._count < wanted:
            assert time.monotonic() < deadline, "the store has not recovered"
            await asyncio.sleep(0.005)

    async def work(self) -> None:
        """Start sessions, and delete every third one."""
        number = 0
        while not self._done.is_set():
            number += 1
            session_id = await self._start()
            if number % 3 == 0 and session_id in self.kept:
                await self._delete(session_id)

    async def list(self) -> None:
        """List the sessions again and again."""
        while not self._done.is_set():
            before, begun = set(self.kept), time.monotonic()
            listed = ids(await self._store.list_sessions())
            self.slowest_list = max(self.slowest_list, time.monotonic() - begun)
            self.missing |= (before & self.kept) - set(listed)

    async def _start(self) -> str:
        document = make_id()
        start, session = make_start(document), make_session(document)
        try:
            await self._store.acquire(start)
            await self._store.commit(start.token, session)
        except (StoreUnavailable, StoreUncertain) as error:
            if isinstance(error, StoreUncertain):
                self.unknown.add(session.session_id)
            # As the service does for a start that has failed.
            await self._drop(start.token)
        else:
            self.kept.add(session.session_id)
            self._count += 1
        return session.session_id

    async def _delete(self, session_id: str) -> None:
        self.kept.discard(session_id)
        try:
            await self._store.delete(session_id, stop_token=make_id())
        except StoreUnavailable:
            self.kept.add(session_id)
        except StoreUncertain:
            self.unknown.add(session_id)
        else:
            self._count += 1

    async def _drop(self, token: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return await self._store.drop_start(token)
            except (StoreUnavailable, StoreUncertain):
                assert time.monotonic() < deadline, "the store has not recovered"
                await asyncio.sleep(0.05)

    def end(self) -> None:
        """Let the tasks end after what they are doing."""
        self._done.set()

    async def check(self, stores: Stores) -> None:
        """Check that the database and the store have all sessions once, and no open start."""
        rows = stores.rows("SELECT session_id, document FROM nbsessions_session ORDER BY seq")
        found = [row[0] for row in rows]
        assert found == ids(await self._store.list_sessions())
        assert len({row[1] for row in rows}) == len(rows)
        assert self.kept <= set(found) <= self.kept | self.unknown
        assert self.missing == set()
        verbs = {intent.verb for intent in await self._store.list_intents()}
        assert verbs <= {Verb.STOP}


@asynccontextmanager
async def running_load(store: SessionStore) -> AsyncIterator[Load]:
    """Yield the load of four tasks that write and one that lists. Wait for them at the end."""
    load = Load(store)
    tasks = [asyncio.ensure_future(load.work()) for _ in range(4)]
    tasks.append(asyncio.ensure_future(load.list()))
    try:
        yield load
    finally:
        load.end()
        await asyncio.gather(*tasks)
