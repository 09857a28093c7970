"""The thread in which the store's blocking work is done, but for writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from nbsessions.errors import StoreUnavailable

T = TypeVar("T")


class ReaderThread:
    """One thread, which runs one function at a time."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="nbsessions-reader")
        self._closed = False

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Run the function in the thread. Raises StoreUnavailable once it is closed."""
        if self._closed:
            raise StoreUnavailable("the session store is closed")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, function, *arguments)

    def close(self) -> None:
        """Wait for what is running, and end the thread. Idempotent."""
        self._closed = True
        self._executor.shutdown(wait=True)
