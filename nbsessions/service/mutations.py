"""Runs operations that change sessions to their end, even if their callers are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from nbsessions.errors import ServiceClosed
from nbsessions.tasks import Tasks

T = TypeVar("T")


class Mutations:
    """The running mutations. Each is a task of its own, completed or undone as a whole.

    Set ``closing`` to refuse new ones.
    """

    def __init__(self) -> None:
        self.closing = False
        self._tasks = Tasks()

    async def run(self, operation: Coroutine[Any, Any, T]) -> T:
        """Return the operation's result. The operation continues if the caller is cancelled.

        Raises ServiceClosed, and the errors that the operation raises.
        """
        if self.closing:
            operation.close()
            raise ServiceClosed
        return await asyncio.shield(self.spawn(operation))

    def spawn(self, operation: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start the operation, also while the service is closing."""
        task = self._tasks.spawn(operation)
        # Mark the error as retrieved. Otherwise asyncio would log it when all callers were
        # cancelled.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def wait(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds until the mutations running now are done."""
        await self._tasks.wait(timeout)
