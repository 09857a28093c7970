"""Lets those who open one document at the same moment share the kernel that is started for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeAlias

from nbsessions.models import NewSession, Session

SHARED_FOR = 10.0
"""Seconds after a start in which its kernel is given to others who open the document."""

Key: TypeAlias = tuple[str, str | None]
"""A document and the kernelspec that is wanted for it."""


@dataclass(eq=False)
class Start:
    """A start that is under way, or ended a moment ago."""

    task: asyncio.Task[Session]
    ended: float | None = None


class RecentStarts:
    """Starts by document and kernelspec. Used on one event loop.

    Two windows that open one notebook ask under paths of their own, which they make up: only
    what they are about tells that they want the same.
    """

    def __init__(self, spawn: Callable[[Coroutine[Any, Any, Session]], Any]) -> None:
        self._spawn = spawn
        self._starts: dict[Key, Start] = {}

    def find(self, key: Key) -> Start | None:
        """Return the start whose kernel may be shared now."""
        start = self._starts.get(key)
        return None if start is None or self._is_over(start) else start

    def begin(self, key: Key, operation: Coroutine[Any, Any, Session]) -> asyncio.Task[Session]:
        """Start; whoever looks for the key from now on finds it."""
        # The oldest are first; who begins again is last.
        self._starts.pop(key, None)
        while self._starts and self._is_over(self._starts[oldest := next(iter(self._starts))]):
            del self._starts[oldest]
        task: asyncio.Task[Session] = self._spawn(operation)
        start = self._starts[key] = Start(task)
        task.add_done_callback(lambda _: self._end(key, start))
        return task

    def forget(self, key: Key, start: Start) -> None:
        """Share this start no more."""
        if self._starts.get(key) is start:
            del self._starts[key]

    def _end(self, key: Key, start: Start) -> None:
        start.ended = asyncio.get_running_loop().time()
        if start.task.cancelled() or start.task.exception() is not None:
            self.forget(key, start)

    def _is_over(self, start: Start) -> bool:
        now = asyncio.get_running_loop().time()
        return start.ended is not None and now - start.ended > SHARED_FOR


def sharing_key(
    request: NewSession, kernel_id: str | None, default_kernel_name: str | None
) -> Key | None:
    """Return by what the request's start may be shared; None when it is for itself."""
    document = request.named_document
    if document is None or kernel_id is not None or request.type == "console":
        return None
    return document, request.kernel_name or default_kernel_name
