"""Runs whatever changes sessions, so that a caller who leaves interrupts nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from nbsessions.errors import ServiceClosed
from nbsessions.tasks import Tasks

T = TypeVar("T")


class Mutations:
    """The mutations that are running. Each is a task of its own: done whole or undone whole.

    ``closing``: start no more.
    """

    def __init__(self) -> None:
        self.closing = False
        self._tasks = Tasks()

    async def run(self, operation: Coroutine[Any, Any, T]) -> T:
        """Return the operation's result. It goes on when the caller is cancelled.

        Raises ServiceClosed, and whatever the operation raises.
        """
        if self.closing:
            operation.close()
            raise ServiceClosed
        return await asyncio.shield(self.spawn(operation))

    def spawn(self, operation: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start the operation, also while the service is closing."""
        task = self._tasks.spawn(operation)
        # Callers see its error. When all of them were cancelled, nobody needs it.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def wait(self, timeout: float) -> None:
        """Wait until those that are running now are done, ``timeout`` seconds at the most."""
        await self._tasks.wait(timeout)
