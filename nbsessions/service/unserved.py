"""Ends the kernels of namespaces that no server has served for long."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from datetime import timedelta

from msgspec import Struct
from msgspec.structs import replace

from nbsessions.errors import StoreError
from nbsessions.identity import new_owner
from nbsessions.kernels.base import KernelProvider
from nbsessions.models import Intent, Session, Verb
from nbsessions.service.cleanup import Cleanup
from nbsessions.stores.base import SessionStore
from nbsessions.tasks import Tasks

_PATIENCE = 30.0
"""Seconds that the kernels of one namespace get to end once no start can bring one up any more.

A later server completes the rest.
"""


class Ended(Struct, frozen=True, kw_only=True):
    """What was ended in a namespace that no server served."""

    sessions: tuple[Session, ...]
    kernel_ids: frozenset[str]
    """The kernels without a session: those of starts and stops that were cut short."""
    is_complete: bool
    """Whether all kernels have ended. A later server ends the others."""


class Unserved:
    """Ends kernels in the shared scope that servers of other namespaces have left.

    Those of the own namespace are left alone: this server serves them from now on. Used on one
    event loop.
    """

    def __init__(
        self, store: SessionStore, provider: KernelProvider, *, log: logging.Logger
    ) -> None:
        self._store = store
        self._provider = provider
        self._log = log
        self._tasks = Tasks()

    def begin(self) -> None:
        """Look for such kernels once, in the background."""
        after = self._provider.orphan_timeout
        if after is not None and self._provider.shared_scope:
            self._tasks.spawn(self._run(after))

    async def stop(self, timeout: float) -> None:
        """Stop that, within ``timeout`` seconds. A later server completes what has begun."""
        self.close()
        await self._tasks.wait(timeout)

    def close(self) -> None:
        """Begin to stop that."""
        self._tasks.cancel()

    async def _run(self, after: timedelta) -> None:
        try:
            found = await self._store.find_unserved(after)
        except StoreError as error:
            self._log.warning("Kernels that no server serves are not looked for: %s", error)
            return
        for namespace, kernel_ids in found.items():
            try:
                await self._end(namespace, kernel_ids, after)
            except StoreError as error:
                self._log.warning(
                    "The kernels of the namespace %r are left alone: %s", namespace, error
                )

    async def _end(self, namespace: str, kernel_ids: Collection[str], after: timedelta) -> None:
        models = await self._provider.models(list(kernel_ids))
        if models.unknown:
            # To end them might fail, too.
            self._log.warning(
                "The kernels of the namespace %r are left alone, because their state is unknown",
                namespace,
            )
            return
        store = self._store.for_namespace(namespace)
        ended = await end_unserved(store, self._provider, after=after, log=self._log)
        if ended is None:
            return
        for session in ended.sessions:
            self._log.info(
                "Session %s with kernel %s ended: no server has served its namespace %r for %d s",
                session.session_id,
                session.kernel_id,
                namespace,
                after.total_seconds(),
            )
        for kernel_id in sorted(ended.kernel_ids):
            self._log.info(
                "Kernel %s, whose start or stop was cut short, is ended: no server has served its "
                "namespace %r for %d s",
                kernel_id,
                namespace,
                after.total_seconds(),
            )


async def end_unserved(
    store: SessionStore,
    provider: KernelProvider,
    *,
    after: timedelta | None = None,
    session_ids: Collection[str] | None = None,
    log: logging.Logger,
) -> Ended | None:
    """End sessions and kernels in the provider's shared scope that no server serves.

    ``store`` is the store of their namespace, which is opened meanwhile. For the other arguments,
    see SessionStore.take_unserved. Returns None if a server serves the scope or may do so. Raises
    StoreError.
    """
    cleanup = Cleanup(store, provider, log=log)
    try:
        # With a scope of its own, because it serves nothing.
        await store.open(replace(new_owner(), provider=provider.name))
        taken = await store.take_unserved(
            provider.shared_scope, after=after, session_ids=session_ids
        )
        if taken is None:
            return None
        await asyncio.gather(*(_complete(cleanup, intent) for intent in taken.intents))
        await cleanup.wait(provider.settling_time.total_seconds() + _PATIENCE)
        used = {session.kernel_id for session in taken.sessions}
        started = {each.kernel_id for each in taken.intents if each.kernel_id is not None}
        return Ended(
            sessions=taken.sessions,
            kernel_ids=frozenset(started - used),
            is_complete=not cleanup.is_busy,
        )
    finally:
        cleanup.close()
        # In a thread, because it waits for the last write.
        await asyncio.to_thread(store.close)


async def _complete(cleanup: Cleanup, intent: Intent) -> None:
    if intent.verb is Verb.STOP and intent.kernel_id is not None:
        await cleanup.stop_kernel(intent.token, intent.kernel_id)
    else:
        await cleanup.undo_start(intent.token, intent.kernel_id)
