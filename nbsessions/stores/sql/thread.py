"""The thread for the blocking work of the store, except writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from nbsessions.errors import StoreUnavailable

T = TypeVar("T")


class ReaderThread:
    """A thread that runs one function at a time."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="nbsessions-reader")
        self._closed = False

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Run the function in the thread. Raises StoreUnavailable after ``close``."""
        if self._closed:
            raise StoreUnavailable("the session store is closed")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, function, *arguments)

    def close(self) -> None:
        """Wait for submitted functions and end the thread. Idempotent."""
        self._closed = True
        self._executor.shutdown(wait=True)
