"""Keeps references to running tasks, because the event loop keeps only weak ones."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Tasks:
    """The running tasks of one owner."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def spawn(self, operation: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run the operation as a task, and keep a reference to it until it is done."""
        task = asyncio.create_task(operation)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    @property
    def are_running(self) -> bool:
        """Whether any task is not done yet."""
        return bool(self._running)

    async def wait(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds until the tasks that are running now are done."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=timeout)

    def cancel(self) -> None:
        """Cancel all running tasks. Does nothing once their event loop is closed."""
        for task in self._running:
            if not task.get_loop().is_closed():
                task.cancel()
