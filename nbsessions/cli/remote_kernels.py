"""Ends sessions at a gateway that no server serves, as a server would."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection
from typing import TYPE_CHECKING

from traitlets.config import Application

from nbsessions.cli.configuration import MakeStore
from nbsessions.cli.errors import CommandError
from nbsessions.cli.gateway import gateway_provider
from nbsessions.errors import StoreError
from nbsessions.service.unserved import Ended, end_unserved

if TYPE_CHECKING:
    from nbsessions.kernels.base import KernelProvider


class RemoteKernels:
    """Ends sessions of the configured gateway. Safe to use from any thread."""

    def __init__(self, parent: Application, make_store: MakeStore) -> None:
        """``parent`` has the configuration of the gateway client."""
        self._parent = parent
        self._make_store = make_store
        # The settings of the gateway client exist once in the process.
        self._lock = threading.Lock()

    def end(
        self,
        namespace: str,
        url: str,
        session_ids: Collection[str],
        kernel_ids: Collection[str],
    ) -> None:
        """End these sessions of one namespace and their kernels, which no other session uses.

        Raises CommandError.
        """
        with self._lock:
            try:
                ended = asyncio.run(self._end(namespace, url, session_ids, kernel_ids))
            except StoreError as error:
                raise CommandError(str(error)) from error
        if ended is None:
            raise CommandError("a server has begun to serve it: try again")
        if not ended.is_complete:
            raise CommandError(
                f"the gateway {url} did not end its kernel. The next server in the namespace "
                f"{namespace!r} ends it"
            )

    async def _end(
        self,
        namespace: str,
        url: str,
        session_ids: Collection[str],
        kernel_ids: Collection[str],
    ) -> Ended | None:
        provider = gateway_provider(self._parent, url)
        await _check_reachable(provider, url, kernel_ids)
        store = self._make_store(namespace)
        return await end_unserved(store, provider, session_ids=session_ids, log=self._parent.log)


async def _check_reachable(
    provider: KernelProvider, url: str, kernel_ids: Collection[str]
) -> None:
    models = await provider.models(list(kernel_ids))
    if models.unknown:
        raise CommandError(
            f"the gateway {url} does not tell the state of its kernel: see `jupyter nbsessions "
            "doctor`"
        )
