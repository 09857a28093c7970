"""Carries out stop intents, and finishes or undoes starts that failed on the way."""

from __future__ import annotations

import asyncio
import logging

from nbsessions.errors import SessionError, StoreUncertain
from nbsessions.kernels.base import KernelProvider
from nbsessions.models import Verb
from nbsessions.stores.base import SessionStore
from nbsessions.tasks import Tasks

_FIRST_RETRY, _LAST_RETRY = 0.2, 4.0
"""Seconds before the first retry, and between later ones at the most."""

_PATIENCE = 6.0
"""Seconds that a request waits for a kernel to shut down.

A kernel that ignores the request is killed earlier by default. A gateway that hangs may take
minutes.
"""


def is_certain(error: Exception) -> bool:
    """Return whether this error of a write proves that nothing was written."""
    return isinstance(error, SessionError) and not isinstance(error, StoreUncertain)


class Cleanup:
    """Completes intents, at once if possible, and otherwise by retries in the background.

    Intents that are still open when this server ends are completed by a later server.
    """

    def __init__(
        self, store: SessionStore, provider: KernelProvider, *, log: logging.Logger
    ) -> None:
        self._store = store
        self._provider = provider
        self._log = log
        self._stops = Tasks()
        self._retries = Tasks()
        self._open: dict[str, str | None] = {}
        self._closed = False

    def close(self) -> None:
        """Stop all retries, and what is still under way."""
        self._closed = True
        self._stops.cancel()
        self._retries.cancel()

    async def finish(self) -> None:
        """Try once more to complete the open intents, while kernels and store are reachable."""
        await self._stops.wait(_PATIENCE)
        for token, kernel_id in list(self._open.items()):
            await self._try(token, kernel_id)

    async def wait(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds until no intent has to be completed any more."""
        deadline = asyncio.get_running_loop().time() + timeout
        await self._stops.wait(timeout)
        await self._retries.wait(max(0.0, deadline - asyncio.get_running_loop().time()))

    @property
    def is_busy(self) -> bool:
        """Whether any intent still has to be completed."""
        return bool(self._open) or self._stops.are_running

    async def stop_kernel(self, token: str, kernel_id: str) -> None:
        """Carry out a 'stop' intent. Never raises.

        If that takes long, it continues in the background: the intent is in the store, so the
        kernel will be shut down.
        """
        stop = self._stops.spawn(self._stop_kernel(token, kernel_id))
        await asyncio.wait({stop}, timeout=_PATIENCE)
        if not stop.done():
            self._log.warning("Kernel %s takes long to shut down", kernel_id)

    async def _stop_kernel(self, token: str, kernel_id: str) -> None:
        try:
            await self._provider.shutdown(kernel_id)
            await self._store.finish_stop(token)
        except Exception as error:
            self._log.warning(
                "Kernel %s could not be shut down. This will be retried: %r", kernel_id, error
            )
            self.retry(token, kernel_id)

    async def undo_start(self, token: str, kernel_id: str | None = None) -> None:
        """Shut down the kernel that was started under this intent, and drop the intent.

        Call it when the start was certainly not committed. Never raises.
        """
        try:
            if kernel_id is not None:
                await self._provider.undo_start(kernel_id)
            await self._complete(token, kernel_id)
        except Exception as error:
            self._log.warning(
                "The kernel start with intent %s could not be undone. This will be retried: %r",
                token,
                error,
            )
            self.retry(token, kernel_id)

    async def after_failed_write(
        self, error: Exception, token: str, kernel_id: str | None = None
    ) -> None:
        """Undo what preceded a failed write, or find out whether it succeeded after all.

        Raises ``error`` when the outcome is unknown because the store does not answer. The
        kernel and the intent then stay as they are until the store answers.
        """
        if is_certain(error):
            await self.undo_start(token, kernel_id)
            return
        try:
            await self._complete(token, kernel_id)
        except Exception:
            self.retry(token, kernel_id)
            raise error from None

    def retry(self, token: str, kernel_id: str | None = None) -> None:
        """Complete the intent in the background, with retries until that succeeds."""
        if not self._closed:
            self._open[token] = kernel_id
            self._retries.spawn(self._retry_until_complete(token, kernel_id))

    async def _retry_until_complete(self, token: str, kernel_id: str | None) -> None:
        delay = _FIRST_RETRY
        while token in self._open:
            await asyncio.sleep(delay)
            await self._try(token, kernel_id)
            delay = min(2 * delay, _LAST_RETRY)

    async def _try(self, token: str, kernel_id: str | None) -> None:
        try:
            await self._complete(token, kernel_id)
        except Exception as error:
            self._log.debug("Intent %s (kernel %s) is still open: %r", token, kernel_id, error)
        else:
            self._open.pop(token, None)

    async def _complete(self, token: str, kernel_id: str | None) -> None:
        """Carry out a 'stop' intent, or undo a 'start' intent.

        ``kernel_id`` is the kernel that was started under the intent, if there is one. The
        store is asked for the current state of the intent.
        """
        intent = await self._store.find_intent(token)
        if intent is None:
            # Either it was never written, or it was exchanged for a session with the kernel.
            if kernel_id is not None and not await self._store.count_by_kernel(kernel_id):
                await self._provider.shutdown(kernel_id)
        elif intent.verb is Verb.STOP and intent.kernel_id is not None:
            await self._provider.shutdown(intent.kernel_id)
            await self._store.finish_stop(token)
        elif intent.verb is not Verb.ENDED:
            if kernel_id is not None:
                await self._provider.undo_start(kernel_id)
            await self._store.drop_start(token)
