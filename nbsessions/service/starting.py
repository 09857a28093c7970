"""Starts kernels, each after an intent for the start has been committed."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

from nbsessions.errors import (
    KernelIdRefused,
    KernelStartUncertain,
    ServiceClosed,
    SessionError,
    StartInProgress,
    StoreError,
    StoreUncertain,
)
from nbsessions.kernels.base import KernelProvider, StartRequest
from nbsessions.models import Intent, Kernel, NewSession, Session, Sharing, Verb
from nbsessions.service.cleanup import Cleanup
from nbsessions.stores.base import START_LEASE, SessionStore

START_TIMEOUT = 300.0
"""Seconds to wait while another server starts a kernel for the same path.

Kernels of a gateway may take minutes. What a dead server was starting is taken over when its lease
has expired, long before.
"""


RENEWAL_INTERVAL = START_LEASE.total_seconds() / 3
"""Seconds between two renewals of the lease of a start that takes long."""


class KernelStarts:
    """Acquires the right to start a kernel, then starts it. Set ``closing`` to refuse starts."""

    def __init__(
        self, store: SessionStore, provider: KernelProvider, cleanup: Cleanup, *, scope: str
    ) -> None:
        self.closing = False
        self._store = store
        self._provider = provider
        self._cleanup = cleanup
        self._scope = scope

    def choose_id(self, requested: str | None) -> str | None:
        """Return the id to start a kernel under: the requested one, or else the provider's choice.

        None if the provider chooses the id during the start. Raises KernelIdRefused.
        """
        if requested is not None and not self._provider.accepts_kernel_ids:
            raise KernelIdRefused(requested)
        return requested or self._provider.new_kernel_id()

    async def acquire(
        self,
        token: str,
        document: str | None,
        kernel_id: str | None,
        sharing: Sharing | None = None,
    ) -> Session | Kernel | None:
        """Wait for the right to start a kernel. Return None, or what makes the start needless.

        That is the session that the document has got meanwhile, or the kernel that was started
        for a request with the same ``sharing``.

        Raises the errors of the store's ``acquire``, but StartInProgress only after a time-out.
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
            )
            try:
                return await self._store.acquire(intent, sharing=sharing, lease=START_LEASE)
            except StartInProgress:
                if self.closing or loop.time() > deadline:
                    raise
            except StoreUncertain as error:
                await self._ask_for_intent(error, token)
                return None
            await asyncio.sleep(random.uniform(0.05, 0.25))

    async def _renew(self, token: str) -> None:
        """Keep others from taking over a start that takes long."""
        while True:
            await asyncio.sleep(RENEWAL_INTERVAL)
            with contextlib.suppress(StoreError):
                await self._store.renew(token)

    async def _ask_for_intent(self, error: StoreUncertain, token: str) -> None:
        """Return if the intent was written after all, else raise the error."""
        try:
            intent = await self._store.find_intent(token)
        except StoreError:
            self._cleanup.retry(token)
            raise error from None
        if intent is None:
            raise error

    async def start(
        self,
        token: str,
        session_id: str,
        about: NewSession | Session,
        kernel_name: str | None,
        kernel_id: str | None = None,
        on_launch: Callable[[Kernel], asyncio.Future[Session]] | None = None,
    ) -> Kernel:
        """Start a kernel for a session. Drop the intent with this token if the start fails.

        ``on_launch`` may be called with the kernel before the start is complete, or not at all.
        It begins to exchange the intent for the session.

        Raises the errors of the provider's ``start``, and ServiceClosed when the server stops.
        """
        writing: asyncio.Future[Session] | None = None

        def note_launch(kernel_id: str, kernel_name: str) -> None:
            nonlocal writing
            if on_launch is not None:
                provider = self._provider.name
                kernel = Kernel(kernel_id=kernel_id, kernel_name=kernel_name, provider=provider)
                writing = on_launch(kernel)

        request = StartRequest(
            token=token,
            session_id=session_id,
            kernel_name=kernel_name,
            kernel_id=kernel_id,
            path=about.path,
            name=about.name,
            type=about.type,
            launched=note_launch,
        )
        renewing = asyncio.ensure_future(self._renew(token))
        try:
            kernel = await self._provider.start(request)
        except BaseException as error:
            await self._undo(token, kernel_id if _may_run(error) else None, writing)
            raise
        finally:
            renewing.cancel()
        if self.closing:
            await self._undo(token, kernel.kernel_id, writing)
            raise ServiceClosed
        return kernel

    async def _undo(
        self, token: str, kernel_id: str | None, writing: asyncio.Future[Session] | None
    ) -> None:
        if writing is not None:
            # What has to be undone depends on what became of the intent.
            await asyncio.wait([writing])
        await self._cleanup.undo_start(token, kernel_id)


def _may_run(error: BaseException) -> bool:
    """Return whether a kernel may run although its start has failed with this error."""
    return isinstance(error, KernelStartUncertain) or not isinstance(error, SessionError)
