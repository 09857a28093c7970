"""Settles what dead owners left: their sessions, and the starts and stops that were cut short."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from nbsessions.kernels.base import KernelProvider
from nbsessions.lookups import Lookups
from nbsessions.models import Intent, KernelTrace, Orphans, Session, Verb
from nbsessions.settling import Settler
from nbsessions.stores.base import SessionStore


class Recovery:
    """Takes over the sessions whose kernels are here, and ends those whose kernels have ended.

    All others stay as they are: their kernels may run where this server does not see them, and
    a server that does will take them over.
    """

    def __init__(
        self,
        store: SessionStore,
        provider: KernelProvider,
        settler: Settler,
        lookups: Lookups,
        *,
        log: logging.Logger,
    ) -> None:
        self._store = store
        self._provider = provider
        self._settler = settler
        self._lookups = lookups
        self._log = log

    async def run(self) -> Sequence[Session]:
        """Settle what can be settled now; return the sessions that were taken over.

        Raises StoreError. What is left is settled by a later call, here or elsewhere.
        """
        orphans = await self._store.find_orphans(self._provider.list_adopted())
        if not orphans:
            return []
        held = set(self._provider.list_held())
        adopted = [
            replace(session, provider=self._provider.name)
            for session in orphans.sessions
            if session.kernel_id in held
        ]
        undone = await self._undo(orphans, {session.kernel_id for session in adopted})
        sessions = {_trace(each): each for each in orphans.sessions if each.kernel_id not in held}
        intents = {
            _intent_trace(each, orphans): each for each in orphans.intents if each not in undone
        }
        ended = await self._provider.find_ended([*sessions, *intents])
        removed = await self._store.settle_orphans(
            orphans,
            adopted=adopted,
            ended=[sessions[trace] for trace in ended if trace in sessions],
            undone=[*undone, *(intents[trace] for trace in ended if trace in intents)],
        )
        for session in removed:
            self._lookups.log_ended(session)
        return adopted

    async def _undo(self, orphans: Orphans, used: Collection[str]) -> list[Intent]:
        """Shut down the kernels that are here because of starts and stops that were cut short.

        Return the intents that are no longer needed. The ``used`` kernels have sessions.
        """
        undone, stops = [], []
        for intent in orphans.intents:
            # Not every host starts a kernel under the id that was asked for.
            kernel_id = self._provider.find_started(intent.token) or intent.kernel_id
            if intent.verb is Verb.ENDED or kernel_id in used:
                undone.append(intent)
            elif kernel_id is not None and kernel_id in self._provider.list_held():
                undone.append(intent)
                stops.append(self._settler.stop_kernel(intent.token, kernel_id))
        await asyncio.gather(*stops)
        return undone

    def log_kernels_without(self, sessions: Iterable[Session]) -> None:
        """Say in the log which kernels were taken over though no session is known for them."""
        known = {session.kernel_id for session in sessions}
        for kernel_id in sorted(set(self._provider.list_adopted()) - known):
            self._log.warning(
                "Kernel %s was taken over, but no session of it is known. See `jupyter nbsessions "
                "list --orphans` for how to reach it, and `stop --orphans` to end it",
                kernel_id,
            )


def _trace(session: Session) -> KernelTrace:
    return KernelTrace(provider=session.provider, kernel_id=session.kernel_id, token=None)


def _intent_trace(intent: Intent, orphans: Orphans) -> KernelTrace:
    return KernelTrace(
        provider=orphans.owners.get(intent.scope, ""),
        kernel_id=intent.kernel_id,
        token=intent.token,
    )
