"""Takes over the kernels and sessions of servers that die while this one runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from nbsessions.errors import StoreError
from nbsessions.kernels.base import KernelProvider, LeftKernels
from nbsessions.service.recovery import Recovery
from nbsessions.stores.base import SHARED_FOR, SessionStore
from nbsessions.tasks import SharedRun, Tasks


class Adopting:
    """Looks for what dead servers have left, again and again. Used on one event loop."""

    def __init__(
        self,
        store: SessionStore,
        provider: KernelProvider,
        recovery: Recovery,
        *,
        log: logging.Logger,
    ) -> None:
        self._store = store
        self._provider = provider
        self._recovery = recovery
        self._log = log
        self._looking = SharedRun(self._look)
        self._tasks = Tasks()
        self._next: asyncio.TimerHandle | None = None
        self._stopped = False
        self._adopted: dict[str, float] = {}
        """When each kernel was adopted, in the time of the event loop's clock."""
        self._new: set[str] = set()
        """The adopted kernels whose sessions were not taken over yet."""
        self._must_recover = False
        self.count = 0
        """How often sessions may have been taken over."""

    def begin(self) -> None:
        """Begin to look, if the provider can take over kernels."""
        interval = self._provider.adoption_interval
        if interval is not None and not self._stopped:
            # A timer instead of a sleeping task, so that no task is pending when the loop ends.
            loop, delay = asyncio.get_running_loop(), interval.total_seconds()
            self._next = loop.call_later(delay, lambda: self._tasks.spawn(self._run()))

    async def stop(self, timeout: float) -> None:
        """Begin no other look, and wait at most ``timeout`` seconds for the one under way."""
        self._stop()
        await self._tasks.wait(timeout)

    def close(self) -> None:
        """Cancel the look that is under way."""
        self._stop()
        self._tasks.cancel()
        self._looking.cancel()

    async def look(self) -> None:
        """Take over now what dead servers have left. Raises StoreError."""
        if self._provider.adoption_interval is None or self._stopped:
            return
        if self._must_recover or self._provider.may_find_left():
            await self._looking.run()

    def list_recent(self) -> Collection[str]:
        """Return the ids of the kernels that were adopted a few seconds ago."""
        oldest = asyncio.get_running_loop().time() - SHARED_FOR.total_seconds()
        self._adopted = {each: when for each, when in self._adopted.items() if when >= oldest}
        return self._adopted.keys()

    def _stop(self) -> None:
        self._stopped = True
        if self._next is not None:
            self._next.cancel()

    async def _run(self) -> None:
        try:
            await self._looking.run()
        except StoreError as error:
            self._log.debug("Sessions of dead servers will be taken over later: %s", error)
        finally:
            self.begin()

    async def _look(self) -> None:
        for left in await self._provider.find_left():
            if await self._are_ours(left):
                await self._adopt(left.server_id)
            else:
                await self._provider.leave(left.server_id)
        if self._must_recover:
            await self._recovery.run()
            self.count += 1
            await self._recovery.log_kernels_without_session(self._new)
            self._new.clear()
            self._must_recover = False

    async def _are_ours(self, left: LeftKernels) -> bool:
        """Return whether the dead server had our namespace and our store, as far as is known.

        Servers of one root directory may differ in that. Their sessions would lose their kernels.
        """
        if all(kernel.token is None for kernel in left.kernels):
            return True  # None was started for a session.
        kernel_ids = [each.kernel_id for each in left.kernels if each.kernel_id is not None]
        orphans = await self._store.find_orphans(kernel_ids)
        known = {session.kernel_id for session in orphans.sessions}
        known |= {intent.kernel_id for intent in orphans.intents if intent.kernel_id is not None}
        tokens = {intent.token for intent in orphans.intents}
        return any(each.kernel_id in known or each.token in tokens for each in left.kernels)

    async def _adopt(self, server_id: str) -> None:
        adopted = await self._provider.adopt(server_id)
        now = asyncio.get_running_loop().time()
        self._adopted.update(dict.fromkeys(adopted, now))
        self._new.update(adopted)
        self._must_recover = True
