"""Takes over or ends the sessions of dead owners, and completes their starts and stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from msgspec.structs import replace

from nbsessions.kernels.base import KernelProvider
from nbsessions.models import Intent, KernelTrace, Orphans, Session, Verb
from nbsessions.service.cleanup import Cleanup
from nbsessions.service.ending import SessionEndings
from nbsessions.service.placeholders import Placeholders
from nbsessions.stores.base import SessionStore


class Recovery:
    """Takes over the sessions whose kernels this server has, and ends those of dead kernels.

    All others stay as they are. Their kernels may run where this server does not see them, and
    a server that sees them will take them over.
    """

    def __init__(
        self,
        store: SessionStore,
        provider: KernelProvider,
        cleanup: Cleanup,
        endings: SessionEndings,
        placeholders: Placeholders,
        *,
        scope: str,
        log: logging.Logger,
    ) -> None:
        """``scope``: that of this server's sessions."""
        self._store = store
        self._provider = provider
        self._cleanup = cleanup
        self._endings = endings
        self._placeholders = placeholders
        self._scope = scope
        self._log = log
        # Two runs at once would both carry out what they find.
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Recover what can be recovered now. Call it again later for the rest.

        Raises StoreError.
        """
        async with self._turn:
            await self._run()

    async def _run(self) -> None:
        if self._provider.shared_scope:
            # Their server may have stopped, and would have been the one to end them.
            self._placeholders.watch_again(await self._store.list_sessions())
        orphans = await self._store.find_orphans(self._provider.list_adopted())
        if not orphans:
            return
        if self._provider.shared_scope:
            await self._complete(orphans.intents)
        here = set(self._provider.list_running())
        adopted = [
            replace(session, provider=self._provider.name)
            for session in orphans.sessions
            if session.kernel_id in here
        ]
        undone = await self._undo(orphans, {session.kernel_id for session in adopted})
        # Several sessions may have one kernel.
        gone = [(each, _trace(each)) for each in orphans.sessions if each.kernel_id not in here]
        intents = {
            _intent_trace(each, orphans): each
            for each in orphans.intents
            if each not in undone and each.scope != self._provider.shared_scope
        }
        ended = await self._provider.find_ended({*(trace for _, trace in gone), *intents})
        removed = await self._store.recover(
            orphans,
            adopted=adopted,
            ended=[(session, ended[trace]) for session, trace in gone if trace in ended],
            undone=[*undone, *(intents[trace] for trace in ended if trace in intents)],
        )
        for session in removed:
            self._endings.log_ended(session)
        self._placeholders.watch_again(adopted)

    async def _undo(self, orphans: Orphans, used: Collection[str]) -> list[Intent]:
        """Shut down the kernels that interrupted starts and stops left with this server.

        Returns the intents that are completed by that. The ``used`` kernels have sessions.
        """
        undone, stops = [], []
        for intent in orphans.intents:
            # Some hosts start a kernel under another id than the one in the intent.
            kernel_id = self._provider.find_started(intent.token) or intent.kernel_id
            if intent.scope == self._provider.shared_scope:
                continue  # see _complete
            if intent.verb is Verb.ENDED or kernel_id in used:
                undone.append(intent)
            elif kernel_id is not None and kernel_id in self._provider.list_running():
                undone.append(intent)
                stops.append(self._cleanup.stop_kernel(intent.token, kernel_id))
        await asyncio.gather(*stops)
        return undone

    async def _complete(self, intents: Collection[Intent]) -> None:
        """Complete the starts and stops of dead owners in the scope that they shared with this.

        Other servers may be about to do the same. Each intent is claimed by one of them.
        """
        shared = [intent for intent in intents if intent.scope == self._scope]
        for intent in await self._store.claim(shared) if shared else ():
            # Some hosts start a kernel under another id than the one in the intent.
            kernel_id = self._provider.find_started(intent.token) or intent.kernel_id
            if intent.verb is Verb.STOP and kernel_id is not None:
                await self._cleanup.stop_kernel(intent.token, kernel_id)
            elif intent.verb is not Verb.ENDED:
                await self._cleanup.undo_start(intent.token, kernel_id)

    async def log_kernels_without_session(self, adopted: Collection[str]) -> None:
        """Write to the log which of the adopted kernels have no session. Raises StoreError."""
        known = {session.kernel_id for session in await self._store.list_sessions()}
        running = set(self._provider.list_running())
        for kernel_id in sorted(set(adopted) & running - known):
            self._log.warning(
                "Kernel %s was adopted, but it has no session. `jupyter nbsessions list "
                "--orphans` tells how to reach it, and `jupyter nbsessions stop --orphans` ends "
                "it",
                kernel_id,
            )


def _trace(session: Session) -> KernelTrace:
    return KernelTrace(provider=session.provider, kernel_id=session.kernel_id, token=None)


def _intent_trace(intent: Intent, orphans: Orphans) -> KernelTrace:
    return KernelTrace(
        provider=orphans.owners.get(intent.owner, ""),
        kernel_id=intent.kernel_id,
        token=intent.token,
    )
