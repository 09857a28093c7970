"""Takes over the kernels of servers that die while this server runs."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Mapping, Sequence

from nbsessions.registry.adoption import Adoption
from nbsessions.registry.records import KernelRecord
from nbsessions.tasks import Tasks

_LOOP_TIMEOUT = 10.0
"""Seconds that a kernel waits for the event loop. It may have ended without ``stop``."""

_STOP_TIMEOUT = 10.0


class Succession:
    """Lets an Adoption work in threads. Used on one event loop.

    Locks and files are used in a thread, because they block. Kernels are adopted on the event
    loop, because their sockets belong to it.
    """

    def __init__(self, adoption: Adoption, adopt: Callable[[KernelRecord], None]) -> None:
        """``adopt`` is that of Adoption.run."""
        self._adoption = adoption
        self._adopt_one = adopt
        # The adoption is used by one thread at a time.
        self._turn = asyncio.Lock()
        self._tasks = Tasks()
        self._stopping = False

    def is_alone(self) -> bool:
        """See Adoption.is_alone."""
        return self._adoption.is_alone()

    async def find_left(self) -> Mapping[str, Sequence[KernelRecord]]:
        """See Adoption.find_left."""
        async with self._turn:
            return await asyncio.to_thread(self._adoption.find_left)

    async def adopt(self, server_id: str) -> Sequence[str]:
        """Take over what a dead server has left. Return the ids of the adopted kernels.

        Goes on if the caller is cancelled.
        """
        return await asyncio.shield(self._tasks.spawn(self._adopt(server_id)))

    async def leave(self, server_id: str) -> None:
        """See Adoption.leave."""
        async with self._turn:
            await asyncio.to_thread(self._adoption.leave, server_id)

    async def stop(self) -> None:
        """Adopt no other kernel, and wait for the adoption that is running."""
        self._stopping = True
        await self._tasks.wait(_STOP_TIMEOUT)

    async def _adopt(self, server_id: str) -> list[str]:
        loop = asyncio.get_running_loop()
        adopted: list[str] = []

        def adopt(record: KernelRecord) -> None:
            self._adopt_on(loop, record)
            adopted.append(record.kernel_id)

        async with self._turn:
            if not self._stopping:
                await asyncio.to_thread(self._adoption.take_over, server_id, adopt)
        return adopted

    def _adopt_on(self, loop: asyncio.AbstractEventLoop, record: KernelRecord) -> None:
        """Adopt the kernel on the event loop, and wait until that is done. Called in a thread."""
        outcome: concurrent.futures.Future[None] = concurrent.futures.Future()

        def adopt() -> None:
            if not outcome.set_running_or_notify_cancel():
                return
            try:
                if self._stopping:
                    raise InterruptedError("this server is stopping")
                outcome.set_result(self._adopt_one(record))
            except BaseException as error:
                outcome.set_exception(error)

        loop.call_soon_threadsafe(adopt)
        try:
            outcome.result(_LOOP_TIMEOUT)
        except concurrent.futures.TimeoutError:
            if outcome.cancel():
                raise
            outcome.result()  # It has begun, so it ends soon.
