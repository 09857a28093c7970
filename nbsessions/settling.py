"""Carries out what intents say, and undoes or finishes what was cut short."""

from __future__ import annotations

import asyncio
import logging

from nbsessions.errors import SessionError, StoreUncertain
from nbsessions.kernels.base import KernelProvider
from nbsessions.models import Verb
from nbsessions.stores.base import SessionStore
from nbsessions.tasks import Tasks

_FIRST_RETRY, _LAST_RETRY = 0.2, 30.0


def is_certain(error: Exception) -> bool:
    """Return whether a write that raised this has not been kept, for certain."""
    return isinstance(error, SessionError) and not isinstance(error, StoreUncertain)


class Settler:
    """Brings intents to an end: at once where it can be, else again and again behind the caller.

    What is still open when the server ends is settled by the next start.
    """

    def __init__(
        self, store: SessionStore, provider: KernelProvider, *, log: logging.Logger
    ) -> None:
        self._store = store
        self._provider = provider
        self._log = log
        self._retries = Tasks()
        self._open: dict[str, str | None] = {}
        self._closed = False

    def close(self) -> None:
        """Give up what is being retried, and retry no more."""
        self._closed = True
        self._retries.cancel()

    async def finish(self) -> None:
        """Try once more what is being retried, while kernels and store can still be reached."""
        for token, kernel_id in list(self._open.items()):
            await self._try(token, kernel_id)

    async def stop_kernel(self, token: str, kernel_id: str) -> None:
        """Carry out a 'stop' intent. Never raises."""
        try:
            await self._provider.shutdown(kernel_id)
            await self._store.finish_stop(token)
        except Exception as error:
            self._log.warning("Kernel %s is shut down at a later try: %r", kernel_id, error)
            self.retry(token, kernel_id)

    async def undo_start(self, token: str, kernel_id: str | None = None) -> None:
        """Shut down the kernel that was started under this intent, and drop the intent.

        For when it is certain that the start was not committed. Never raises.
        """
        try:
            if kernel_id is not None:
                await self._provider.shutdown(kernel_id)
            await self._settle(token, kernel_id)
        except Exception as error:
            self._log.warning("The start %s is undone at a later try: %r", token, error)
            self.retry(token, kernel_id)

    async def after_failure(
        self, error: Exception, token: str, kernel_id: str | None = None
    ) -> None:
        """Undo what led up to a failed write, or find out whether it was kept after all.

        Raises ``error`` when that cannot be known because the store cannot be asked. Kernel
        and intent stay then, until it can.
        """
        if is_certain(error):
            await self.undo_start(token, kernel_id)
            return
        try:
            await self._settle(token, kernel_id)
        except Exception:
            self.retry(token, kernel_id)
            raise error from None

    def retry(self, token: str, kernel_id: str | None = None) -> None:
        """Settle the intent behind the caller, until it is done."""
        if not self._closed:
            self._open[token] = kernel_id
            self._retries.spawn(self._settle_until_done(token, kernel_id))

    async def _settle_until_done(self, token: str, kernel_id: str | None) -> None:
        delay = _FIRST_RETRY
        while token in self._open:
            await asyncio.sleep(delay)
            await self._try(token, kernel_id)
            delay = min(2 * delay, _LAST_RETRY)

    async def _try(self, token: str, kernel_id: str | None) -> None:
        try:
            await self._settle(token, kernel_id)
        except Exception as error:
            self._log.debug("Intent %s (kernel %s) is still open: %r", token, kernel_id, error)
        else:
            self._open.pop(token, None)

    async def _settle(self, token: str, kernel_id: str | None) -> None:
        """Finish what the intent of this token says, or undo it.

        All that is known is the token, and the kernel that was started for it, if it got so far.
        """
        intent = await self._store.find_intent(token)
        if intent is None:
            # Never kept, or exchanged for a session, which then holds the kernel.
            if kernel_id is not None and not await self._store.count_holders(kernel_id):
                await self._provider.shutdown(kernel_id)
        elif intent.verb is Verb.STOP and intent.kernel_id is not None:
            await self._provider.shutdown(intent.kernel_id)
            await self._store.finish_stop(token)
        elif intent.verb is not Verb.ENDED:
            if kernel_id is not None:
                await self._provider.shutdown(kernel_id)
            await self._store.drop_start(token)
