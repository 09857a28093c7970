"""Lets windows that open one document at the same moment share the kernel started for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from nbsessions.models import NewSession, Session, Sharing
from nbsessions.service.mutations import Mutations


class RunningStarts:
    """The starts that are running in this server and can be shared. Used on one event loop.

    The store knows those of all servers. This only lets requests wait for a start of their own
    server without asking the store again and again.
    """

    def __init__(self, mutations: Mutations) -> None:
        self._mutations = mutations
        self._running: dict[Sharing, asyncio.Task[Session]] = {}

    async def run(
        self, sharing: Sharing, start_or_share: Callable[[], Coroutine[Any, Any, Session]]
    ) -> Session:
        """Return the result of ``start_or_share``, after the running start that can be shared.

        If that start fails, raises its error.
        """
        first = self._running.get(sharing)
        if first is not None:
            await asyncio.shield(first)
            return await start_or_share()
        task = self._running[sharing] = self._mutations.spawn(start_or_share())
        task.add_done_callback(lambda _: self._running.pop(sharing))
        return await asyncio.shield(task)


def sharing_of(
    request: NewSession, kernel_id: str | None, default_kernel_name: str | None
) -> Sharing | None:
    """Return with which other requests this one can share a kernel. None if with no other."""
    document = request.named_document
    if document is None or kernel_id is not None or request.type == "console":
        return None
    return Sharing(document=document, kernel_name=request.kernel_name or default_kernel_name)
