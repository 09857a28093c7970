"""Lets concurrent requests for a session of one document share one creation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from nbsessions.errors import ServiceClosed, SessionError
from nbsessions.models import NewSession, Session, is_within
from nbsessions.service.mutations import Mutations


class RunningCreations:
    """The creations that are running in this server, by document. Used on one event loop."""

    def __init__(self, mutations: Mutations) -> None:
        self._mutations = mutations
        self._running: dict[str, tuple[NewSession, asyncio.Task[Session]]] = {}

    async def join(
        self,
        document: str,
        request: NewSession,
        create: Callable[[NewSession], Coroutine[Any, Any, Session]],
    ) -> Session:
        """Return the result of the document's running creation. If none is running, begin one.

        Raises ServiceClosed, and the errors that ``create`` raises.
        """
        while document in self._running:
            first, task = self._running[document]
            try:
                return await asyncio.shield(task)
            except SessionError:
                # The same request would fail in the same way. Another one may succeed.
                if first == request:
                    raise
        if self._mutations.closing:
            raise ServiceClosed
        task = self._mutations.spawn(create(request))
        self._running[document] = (request, task)
        task.add_done_callback(lambda _: self._running.pop(document))
        return await asyncio.shield(task)

    def within(self, top: str) -> list[asyncio.Task[Session]]:
        """Return the creations for the document ``top``, or for those in the folder ``top``."""
        return [task for path, (_, task) in self._running.items() if is_within(path, top)]
