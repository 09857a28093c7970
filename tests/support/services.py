"""A session service over a fake kernel provider and a store that can be made to fail."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from nbsessions.models import Intent, LiveSession, NewSession, Owner, Session, Verb
from nbsessions.service import SessionService
from nbsessions.stores.base import SessionStore
from nbsessions.stores.memory import MemorySessionStore
from nbsessions.stores.sqlite.store import SQLiteSessionStore
from support.faults import StoreFaults
from support.provider import FakeKernelProvider

STORES = ("memory", "sqlite")
NAMESPACE = "/a/root"


def make_store(kind: str, folder: Path) -> SessionStore:
    """Return a store that is not open yet; one file per folder."""
    if kind == "memory":
        return MemorySessionStore()
    return SQLiteSessionStore(folder / "sessions.db", NAMESPACE, log=logging.getLogger("test"))


def make_owner(boot_id: str = "this boot") -> Owner:
    """Return an owner of its own. One of another boot of the host is known to be dead."""
    return Owner(owner_id=str(uuid.uuid4()), host="here", boot_id=boot_id, pid=1)


def notebook(path: str | None = "a.ipynb", **more: str) -> NewSession:
    """Return a request for a notebook's session."""
    return NewSession(path=path, type="notebook", **more)


async def eventually(
    condition: Callable[[], Awaitable[bool]], what: str, *, timeout: float = 4.0
) -> None:
    """Wait until the condition holds; AssertionError after ``timeout`` seconds."""
    deadline = asyncio.get_running_loop().time() + timeout
    while not await condition():
        assert asyncio.get_running_loop().time() < deadline, f"still not so: {what}"
        await asyncio.sleep(0.005)


class Bench:
    """The service under test and what it works with."""

    def __init__(
        self, store: SessionStore, provider: FakeKernelProvider, owner: Owner | None = None
    ) -> None:
        self.faults = StoreFaults(store)
        self.provider = provider
        self.owner = owner or make_owner()
        self.records: list[logging.LogRecord] = []
        log = logging.Logger("service under test")  # with no handler but ours
        handler = logging.Handler()
        handler.emit = self.records.append  # type: ignore[assignment]
        log.addHandler(handler)
        self.service = SessionService(self.faults.store, provider, owner=self.owner, log=log)

    @property
    def store(self) -> SessionStore:
        """The store itself, without faults."""
        return self.faults.inner

    def messages(self, level: int) -> list[str]:
        """Return what the service logged at this level."""
        return [each.getMessage() for each in self.records if each.levelno == level]

    async def create(self, path: str | None = "a.ipynb", **more: str) -> Session:
        """Create a notebook's session."""
        session, _ = await self.service.create(notebook(path, **more))
        return session

    async def sessions(self) -> list[Session]:
        """Return the sessions that the service lists."""
        return [session for session, _ in await self.service.list_sessions()]

    async def get(self, session: Session) -> LiveSession:
        """Return what has become of a session."""
        return await self.service.get(session_id=session.session_id)

    async def open_intents(self) -> list[Intent]:
        """Return the intents of what is under way."""
        intents = await self.store.list_intents()
        return [each for each in intents if each.verb is not Verb.ENDED]

    async def is_at_rest(self) -> bool:
        """Return whether nothing is under way, and each kernel has a session."""
        held = {session.kernel_id for session in await self.store.list_sessions()}
        return not await self.open_intents() and self.provider.held == held

    async def rest(self, *, timeout: float = 4.0) -> None:
        """Wait until nothing is under way; fails when a kernel is left over or missing."""
        what = "no open intent; the kernels are those of sessions"
        await eventually(self.is_at_rest, what, timeout=timeout)


@asynccontextmanager
async def running_service(
    kind: str,
    folder: Path,
    *,
    provider: FakeKernelProvider | None = None,
    owner: Owner | None = None,
) -> AsyncIterator[Bench]:
    """Yield an open service; at the end it has to come to rest without an ERROR."""
    bench = Bench(make_store(kind, folder), provider or FakeKernelProvider(), owner)
    await bench.service.open()
    try:
        yield bench
        await bench.rest()
        assert not bench.messages(logging.ERROR)
    finally:
        bench.service.close()
