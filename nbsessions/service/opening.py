"""Opens the session service of a server, and retries while the store cannot be used."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from msgspec.structs import replace

from nbsessions.errors import (
    ServiceClosed,
    StoreDamaged,
    StoreError,
    StoreTooNew,
    StoreUnavailable,
    StoreUnsupported,
    StoreUnusable,
)
from nbsessions.identity import new_owner
from nbsessions.kernels.base import KernelProvider
from nbsessions.service.service import SessionService
from nbsessions.stores.base import SessionStore

_OPEN_TIMEOUT = 5.0
"""Seconds that a request waits for a store that is not open yet."""

_FIRST_RETRY, _LAST_RETRY = 0.1, 2.0
"""Seconds before the first retry, and between later ones at the most."""


class ServiceOpening:
    """Opens the service in the background, and returns it when open. Used on one event loop."""

    def __init__(
        self,
        store: SessionStore,
        make_provider: Callable[[], KernelProvider],
        *,
        log: logging.Logger,
    ) -> None:
        """``make_provider`` is called when the opening begins."""
        self._store = store
        self._make_provider = make_provider
        self._log = log
        self._service: SessionService | None = None
        self._task: asyncio.Task[None] | None = None
        self._problem: StoreError = StoreUnavailable("the session store is being opened")
        self._stopping = False
        self.closed = False

    def begin(self) -> None:
        """Begin to open the service, unless it is open or being opened."""
        running = self._task is not None and not self._task.done()
        if self._service is None and not self.closed and not running:
            self._task = asyncio.ensure_future(self._open())
            self._task.add_done_callback(self._log_failure)

    async def opened(self) -> SessionService:
        """Return the service. Wait a few seconds for it if it is not open yet.

        Raises ServiceClosed, or StoreError with the reason why the store cannot be used.
        """
        if self._service is None and not self.closed:
            self.begin()
            assert self._task is not None
            done, _ = await asyncio.wait({self._task}, timeout=_OPEN_TIMEOUT)
            if not done:
                raise self._problem
            if not self._task.cancelled():
                self._task.result()
        if self._service is None or self.closed:
            raise ServiceClosed
        return self._service

    async def stop(self) -> None:
        """See SessionService.stop."""
        self._stopping = True
        if self._service is not None:
            await self._service.stop()

    def close(self) -> None:
        """See SessionService.close."""
        self.closed = True
        if self._service is not None:
            self._service.close()
        task = self._task
        if task is not None and not task.done() and not task.get_loop().is_closed():
            task.cancel()

    async def _open(self) -> None:
        provider = self._make_provider()
        owner = replace(new_owner(), provider=provider.name, shared_scope=provider.shared_scope)
        service = SessionService(self._store, provider, owner=owner, log=self._log)
        try:
            await self._open_in_time(service, provider)
        except StoreError as error:
            self._log.error(
                "Sessions are kept in memory and will be lost when this server ends: %s", error
            )
            service.close()
            # Imported only where it is needed, because that takes a millisecond.
            from nbsessions.stores.memory import MemorySessionStore

            service = SessionService(MemorySessionStore(), provider, owner=owner, log=self._log)
            await service.open()
        except BaseException:
            service.close()
            raise
        self._service = service
        if self._stopping:
            await service.stop()
        if self.closed:
            service.close()

    async def _open_in_time(self, service: SessionService, provider: KernelProvider) -> None:
        """Retry until the service is open. Raises StoreError if its store can never be used."""
        delay = _FIRST_RETRY
        while True:
            try:
                await service.open()
            except StoreError as error:
                if self._store.can_be_replaced and _must_use_memory(error, provider):
                    raise
                self._set_problem(error)
            else:
                break
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LAST_RETRY)
        if delay > _FIRST_RETRY:
            self._log.warning("The session store can be used now")

    def _set_problem(self, problem: StoreError) -> None:
        if str(problem) != str(self._problem):
            self._log.warning(
                "Sessions are not available until their store can be used: %s", problem
            )
        self._problem = problem

    def _log_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._log.error("The session service could not be opened", exc_info=task.exception())


def _must_use_memory(error: StoreError, provider: KernelProvider) -> bool:
    """Return whether the server must use memory instead of waiting for the store.

    The server waits if the store may contain the sessions of adopted kernels. A store in memory
    lacks them, so a notebook that is opened again would get a second kernel.
    """
    if isinstance(error, (StoreTooNew, StoreUnsupported)):
        return True
    return isinstance(error, (StoreDamaged, StoreUnusable)) and not provider.list_adopted()
