"""Session managers with very many sessions, in this process and without real kernels."""

from __future__ import annotations

import asyncio
import gc
import time

import psutil

from nbsessions import AsyncSessionManager

AT_A_TIME = 100
"""How many sessions are created at a time. They are committed together, within a time limit."""
_WARM_UP = 2000


class ManySessions:
    """A session manager, and the sessions that were created in it."""

    def __init__(self, manager: AsyncSessionManager, kernels: int) -> None:
        self.manager = manager
        self.session_ids: list[str] = []
        self.kernel_ids: list[str] = []
        self._kernels = kernels

    async def fill(self, count: int) -> None:
        """Create sessions until there are so many, whose kernels are taken in turns."""
        if not self.kernel_ids:
            await self.manager.open()
            start = self.manager.kernel_manager.start_kernel
            self.kernel_ids = [await start() for _ in range(self._kernels)]
        while (begin := len(self.session_ids)) < count:
            numbers = range(begin, min(begin + AT_A_TIME, count))
            self.session_ids += await asyncio.gather(*map(self.create, numbers))

    async def create(self, number: int) -> str:
        """Create a session, and return its id."""
        model = await self.manager.create_session(
            path=path_of(number),
            name=f"notebook-{number}.ipynb",
            type="notebook",
            kernel_id=self.kernel_ids[number % len(self.kernel_ids)],
        )
        session_id: str = model["id"]
        return session_id

    async def create_and_delete(self, cycles: int) -> None:
        """Create and delete so many sessions, beside those that there are."""
        for begin in range(0, cycles, AT_A_TIME):
            numbers = range(10_000_000 + begin, 10_000_000 + min(begin + AT_A_TIME, cycles))
            created = await asyncio.gather(*map(self.create, numbers))
            await asyncio.gather(*map(self.manager.delete_session, created))

    async def encode(self) -> None:
        """Make the list that is kept."""
        await self.manager.encode_sessions()


def path_of(number: int) -> str:
    """Return the path of a session."""
    return f"folder/notebook-{number}.ipynb"


async def get_seconds(sessions: ManySessions, column: str, values: list[str]) -> float:
    """Return the seconds that it takes to make the reply with the session of a column's value.

    The values are taken in turns for a while.
    """
    manager = sessions.manager
    count, begun = 0, time.perf_counter()
    while (taken := time.perf_counter() - begun) < 0.2:
        value = values[count % len(values)]
        if column == "session_id":
            reply = await manager.encode_session(value)
        else:
            reply = await manager.encode_sessions(**{column: value})
        assert value.encode() in reply.content
        count += 1
    return taken / count


async def bytes_per_session(manager: AsyncSessionManager, few: int, many: int) -> float:
    """Return how much this process grows for each session, with the list that is kept."""
    sessions = ManySessions(manager, few)
    await sessions.fill(few)
    await sessions.encode()
    before = resident()
    await sessions.fill(many)
    await sessions.encode()
    grown = resident() - before
    manager.close()
    return grown / (many - few)


async def growth(manager: AsyncSessionManager, cycles: int) -> float:
    """Return by how many bytes this process grows in so many creates and deletes."""
    sessions = ManySessions(manager, AT_A_TIME)
    await sessions.fill(AT_A_TIME)
    await sessions.create_and_delete(_WARM_UP)
    before = resident()
    await sessions.create_and_delete(cycles)
    grown = resident() - before
    manager.close()
    return grown


def resident() -> int:
    """Return the resident size of this process, in bytes."""
    gc.collect()
    size: int = psutil.Process().memory_info().rss
    return size
