"""Starts kernels under an intent: first the right to start, then the kernel."""

from __future__ import annotations

import asyncio
import random

from nbsessions.errors import ServiceClosed, StartInProgress, StoreError, StoreUncertain
from nbsessions.kernels.base import KernelProvider, StartRequest
from nbsessions.models import Intent, Kernel, Session, Verb, utcnow
from nbsessions.settling import Settler
from nbsessions.stores.base import START_LEASE, SessionStore

START_TIMEOUT = 30.0
"""Seconds to wait for somebody else's start of the same path."""


class KernelStarts:
    """The two steps before a start is exchanged for a session. ``closing``: start no more."""

    def __init__(
        self, store: SessionStore, provider: KernelProvider, settler: Settler, *, scope: str
    ) -> None:
        self.closing = False
        self._store = store
        self._provider = provider
        self._settler = settler
        self._scope = scope

    async def acquire(
        self, token: str, document: str | None, kernel_id: str | None
    ) -> Session | None:
        """Wait for the right to start a kernel; return the session if there is one by then.

        Raises what the store's ``acquire`` raises, StartInProgress only after a time-out.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_TIMEOUT
        while True:
            intent = Intent(
                token=token,
                verb=Verb.START,
                scope=self._scope,
                document=document,
                kernel_id=kernel_id,
                lease_until=utcnow() + START_LEASE,
            )
            try:
                return await self._store.acquire(intent)
            except StartInProgress:
                if self.closing or loop.time() > deadline:
                    raise
            except StoreUncertain as error:
                await self._ask_for_intent(error, token)
                return None
            await asyncio.sleep(random.uniform(0.05, 0.25))

    async def _ask_for_intent(self, error: StoreUncertain, token: str) -> None:
        """Return when the intent was kept after all; else raise the error."""
        try:
            intent = await self._store.find_intent(token)
        except StoreError:
            self._settler.retry(token)
            raise error from None
        if intent is None:
            raise error

    async def start(self, request: StartRequest) -> Kernel:
        """Start the kernel, whose intent is in the store; drop the intent when that fails.

        Raises what the provider's ``start`` raises, ServiceClosed when the server stops.
        """
        try:
            kernel = await self._provider.start(request)
        except BaseException:
            await self._settler.undo_start(request.token)
            raise
        if self.closing:
            await self._settler.undo_start(request.token, kernel.kernel_id)
            raise ServiceClosed
        return kernel
