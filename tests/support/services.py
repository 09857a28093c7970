"""A session service with a fake kernel provider and a store that can be made to fail."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from msgspec.structs import replace
from psycopg.conninfo import make_conninfo

from nbsessions.models import (
    Intent,
    LiveSession,
    NewSession,
    Owner,
    Session,
    SessionPatch,
    Verb,
)
from nbsessions.replies import encode_list, encode_session
from nbsessions.service import SessionService
from nbsessions.stores.base import START_LEASE, SessionStore
from nbsessions.stores.memory import MemorySessionStore
from nbsessions.stores.postgres import PostgresSessionStore
from nbsessions.stores.postgres.settings import connection_settings
from nbsessions.stores.sqlite.store import SQLiteSessionStore
from support.faults import StoreFaults
from support.interruptions import Interruption
from support.postgres import shared_cluster
from support.provider import FakeKernelProvider, Gate
from support.values import ENDED_PROCESS, make_start

STORES = ("memory", "sqlite", "postgres")
NAMESPACE = "/a/root"
FREE_ID = "11111111-2222-4333-8444-555555555555"
"""An id under which no kernel runs yet."""

T = TypeVar("T")


def make_store(kind: str, folder: Path) -> SessionStore:
    """Return a store that is not open yet. Stores of one folder share a file or a schema."""
    if kind == "memory":
        return MemorySessionStore()
    if kind == "postgres":
        settings = connection_settings(_schema_of(folder))
        return PostgresSessionStore(settings, NAMESPACE, log=logging.getLogger("test"))
    return SQLiteSessionStore(folder / "sessions.db", NAMESPACE, log=logging.getLogger("test"))


@functools.cache
def _schema_of(folder: Path) -> str:
    return shared_cluster().make_schema()


def make_owner(boot_id: str = "this boot") -> Owner:
    """Return a new owner. With another boot id and without a lock, it counts as dead."""
    return Owner(owner_id=str(uuid.uuid4()), host="here", boot_id=boot_id, pid=1)


def notebook(path: str | None = "a.ipynb", **more: str) -> NewSession:
    """Return a request for a notebook's session."""
    return NewSession(path=path, type="notebook", **more)


async def eventually(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until the condition holds. Raises AssertionError after a minute."""
    deadline = asyncio.get_running_loop().time() + 60
    while not await condition():
        assert asyncio.get_running_loop().time() < deadline, f"this did not become true: {what}"
        await asyncio.sleep(0.005)


class Bench:
    """The service under test, with its store and kernel provider."""

    def __init__(
        self, store: SessionStore, provider: FakeKernelProvider, owner: Owner | None = None
    ) -> None:
        self.interruption = provider.interruption = Interruption()
        self.faults = StoreFaults(store, self.interruption)
        self.provider = provider
        self.owner = replace(owner or make_owner(), provider=provider.name)
        self.records: list[logging.LogRecord] = []
        log = logging.Logger("service under test")  # has no handlers except ours
        handler = logging.Handler()
        handler.emit = self.records.append  # type: ignore[assignment]
        log.addHandler(handler)
        self.service = SessionService(self.faults.store, provider, owner=self.owner, log=log)

    @property
    def store(self) -> SessionStore:
        """The store itself, without faults."""
        return self.faults.inner

    def release_lock(self) -> None:
        """Make the owner look dead: the system releases its lock when its process ends."""
        if isinstance(self.store, SQLiteSessionStore):
            locks = self.store._database.locks
            lock, locks._owner, locks._owner_id = locks._owner, None, None
            assert lock is not None
            lock.path.unlink()
            lock.close()
        if isinstance(self.store, PostgresSessionStore):
            settings = make_conninfo(**self.store._database.settings)
            with psycopg.connect(settings) as connection:
                connection.execute(
                    "UPDATE nbsessions_owner SET process = %s WHERE owner = %s",
                    (ENDED_PROCESS, self.owner.owner_id),
                )

    def crash(self) -> None:
        """End as after ``kill -9``, with nothing finished."""
        self.faults.abandoned = True
        self.service.close()
        self.release_lock()

    def messages(self, level: int) -> list[str]:
        """Return the messages that the service logged at this level."""
        return [each.getMessage() for each in self.records if each.levelno == level]

    async def create(self, path: str | None = "a.ipynb", **more: str) -> Session:
        """Create a notebook's session."""
        session, _ = await self.service.create(notebook(path, **more))
        return session

    async def update(self, session: Session, *, force: bool = False, **changes: str) -> Session:
        """Change a session."""
        patch = SessionPatch(**changes)
        updated, _ = await self.service.update(session.session_id, patch, force=force)
        return updated

    async def hold_up(self, work: Coroutine[Any, Any, T]) -> tuple[Gate, asyncio.Task[T]]:
        """Begin work that starts a kernel, and return when the kernel start is held up.

        Return the gate, which lets the start continue when opened, and the task of the work.
        """
        gate = self.provider.start_gate = Gate()
        task = asyncio.create_task(work)
        await gate.reached()
        return gate, task

    async def acquire(
        self,
        document: str = "a.ipynb",
        *,
        kernel_id: str | None = None,
        lease: timedelta = START_LEASE,
    ) -> Intent:
        """Write the intent of a start to the store, behind the service's back."""
        scope = self.owner.owner_id
        intent = make_start(document, kernel_id=kernel_id, scope=scope)
        await self.store.acquire(intent, lease=lease)
        return intent

    async def sessions(self) -> list[Session]:
        """Return the sessions that the service lists."""
        return [session for session, _ in await self.service.list_sessions()]

    async def listed(self) -> list[dict[str, Any]]:
        """Return the list that replies contain. It must be as one that is made anew.

        So must each of its sessions.
        """
        encoded = await self.service.encode_sessions()
        living = list(await self.service.list_sessions())
        assert encoded.content == encode_list(living)
        for session, kernel in living:
            one = await self.service.encode_session(session.session_id)
            assert one.content == encode_session(session, kernel)
        models: list[dict[str, Any]] = json.loads(encoded.content)
        return models

    async def get(self, session: Session) -> LiveSession:
        """Return the current state of a session."""
        return await self.service.get(session_id=session.session_id)

    async def open_intents(self) -> list[Intent]:
        """Return the intents of starts and stops that are under way."""
        intents = await self.store.list_intents()
        return [each for each in intents if each.verb is not Verb.ENDED]

    async def is_at_rest(self) -> bool:
        """Return whether nothing is under way, and the running kernels are those of sessions."""
        held = {session.kernel_id for session in await self.store.list_sessions()}
        return not await self.open_intents() and self.provider.running == held

    async def rest(self) -> None:
        """Wait until nothing is under way. Fails if a kernel is left over or missing."""
        what = "no intent is open, and the running kernels are those of sessions"
        await eventually(self.is_at_rest, what)


@asynccontextmanager
async def running_service(
    kind: str,
    folder: Path,
    *,
    provider: FakeKernelProvider | None = None,
    owner: Owner | None = None,
) -> AsyncIterator[Bench]:
    """Yield an open service. At the end, it must come to rest without logging an ERROR."""
    bench = Bench(make_store(kind, folder), provider or FakeKernelProvider(), owner)
    await bench.service.open()
    try:
        yield bench
        await bench.rest()
        await bench.service.stop()
        assert not bench.messages(logging.ERROR)
    finally:
        bench.service.close()
