"""Lets windows that open one document at the same moment share the kernel started for it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeAlias

from nbsessions.models import NewSession, Session
from nbsessions.service.mutations import Mutations

SHARED_FOR = 10.0
"""Seconds after a start during which other windows that open the document get its kernel."""

Key: TypeAlias = tuple[str, str | None]
"""A document and the name of the requested kernelspec."""


@dataclass(eq=False)
class Start:
    """A start that is running, or ended a few seconds ago."""

    task: asyncio.Task[Session]
    ended: float | None = None


class RecentStarts:
    """Starts by document and kernelspec. Used on one event loop.

    Two windows that open one notebook send two different, generated paths. Only the document
    that both requests name shows that they want the same kernel.
    """

    def __init__(self, mutations: Mutations) -> None:
        self._mutations = mutations
        self._starts: dict[Key, Start] = {}

    def find(self, key: Key) -> Start | None:
        """Return the start whose kernel may be shared, if there is one."""
        start = self._starts.get(key)
        return None if start is None or self._is_over(start) else start

    def begin(self, key: Key, operation: Coroutine[Any, Any, Session]) -> asyncio.Task[Session]:
        """Begin a start, which ``find`` returns from now on."""
        # The dict is ordered by age, so a key that begins again moves to the end.
        self._starts.pop(key, None)
        while self._starts and self._is_over(self._starts[oldest := next(iter(self._starts))]):
            del self._starts[oldest]
        task = self._mutations.spawn(operation)
        start = self._starts[key] = Start(task)
        task.add_done_callback(lambda _: self._end(key, start))
        return task

    def forget(self, key: Key, start: Start) -> None:
        """Stop sharing this start."""
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
    """Return the key for sharing the request's start, or None if it must not be shared."""
    document = request.named_document
    if document is None or kernel_id is not None or request.type == "console":
        return None
    return document, request.kernel_name or default_kernel_name
