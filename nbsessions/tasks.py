"""Running tasks: references to them, because the event loop keeps only weak ones, and sharing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
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


class SharedRun:
    """Runs an operation once for all callers that came before it began. Used on one event loop."""

    def __init__(self, operation: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._operation = operation
        self._running: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Wait for a run that begins after this call. Raises what the operation raises."""
        if self._running is not None:
            # This run may have looked at things before this call, so another one is needed.
            await asyncio.wait({self._running})
        if self._running is None:
            self._running = asyncio.ensure_future(self._operation())
            self._running.add_done_callback(self._ended)
        await asyncio.shield(self._running)

    def cancel(self) -> None:
        """Cancel the run that is under way. Does nothing once its event loop is closed."""
        if self._running is not None and not self._running.get_loop().is_closed():
            self._running.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running = None
        # Mark the error as retrieved, in case all callers were cancelled.
        if not task.cancelled():
            task.exception()
