"""Shares one reload of a cache among all who wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class SharedReload:
    """Runs a reload for all callers that came before it began. Used on one event loop."""

    def __init__(self, reload: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._reload = reload
        self._running: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Wait for a reload that begins after this call. Raises what the reload raises."""
        if self._running is not None:
            # This reload may have read the store before this call, so another one is needed.
            await asyncio.wait({self._running})
        if self._running is None:
            self._running = asyncio.ensure_future(self._reload())
            self._running.add_done_callback(self._ended)
        await asyncio.shield(self._running)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running = None
        # Mark the error as retrieved, in case all callers were cancelled.
        if not task.cancelled():
            task.exception()
