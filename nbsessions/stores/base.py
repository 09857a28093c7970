"""The port to where sessions are kept. Its docstrings are the contract that every store keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from datetime import timedelta

from nbsessions.models import Changes, Intent, Orphans, Owner, Release, Session

START_LEASE = timedelta(seconds=60)
"""How long a start may take before others may take it over."""

ENDED_KEPT_FOR = timedelta(minutes=10)
"""How long a stopped kernel is remembered, so that nobody attaches to what is left of it."""

SILENT_KEPT_FOR = timedelta(hours=24)
"""How long an owner may be silent before it counts as dead. Its kernels may run all the same."""


class SessionStore(ABC):
    """Sessions, intents and owners of one namespace, as one owner sees them.

    Every mutation is one transaction: all of it or nothing. It first raises the revision of
    the namespace, which orders all writes; reads never raise it. Mutations may be called
    concurrently and are applied in some order.

    All methods but ``open`` and ``close`` see only sessions of the *scope*: what this owner
    can serve. All raise StoreUnavailable when nothing was written, StoreUncertain when a
    commit was cut short. Cancelling the caller does not cancel the write.
    """

    @abstractmethod
    async def open(self, owner: Owner) -> None:
        """Open the store and register ``owner``, whose id is the scope of all that follows.

        Raises StoreError when the store cannot be used; nothing is left open then, and it may
        be tried again.
        """

    @abstractmethod
    def close(self, running: Collection[str] = ()) -> None:
        """Finish what is queued, remove the sessions and intents of all kernels but the
        ``running`` ones (by id), sign off, let go.

        Synchronous and idempotent; never raises. Mutations after it raise StoreUnavailable.
        """

    @abstractmethod
    async def heartbeat(self) -> None:
        """Say that the owner is alive."""

    @abstractmethod
    async def ensure_intact(self) -> None:
        """See to it that the store still has what this owner wrote. Called every few seconds.

        What is in a store that was removed, replaced or put back to an earlier state is
        written again, and an owner that somebody has forgotten is registered anew. Every
        mutation does so by itself.
        """

    # Reads

    @abstractmethod
    async def list_sessions(self) -> Sequence[Session]:
        """Return all sessions, oldest first."""

    @abstractmethod
    async def find_session(self, session_id: str) -> Session | None:
        """Return the session of this id."""

    @abstractmethod
    async def find_by_document(self, document: str) -> Session | None:
        """Return the oldest session of this document (a normalised path)."""

    @abstractmethod
    async def find_intent(self, token: str) -> Intent | None:
        """Return the intent of this token, read afresh."""

    @abstractmethod
    async def list_intents(self) -> Sequence[Intent]:
        """Return all intents of the scope, read afresh. Asked by tests only."""

    @abstractmethod
    async def count_holders(self, kernel_id: str) -> int:
        """Return how many sessions hold the kernel, read afresh."""

    # Starts

    @abstractmethod
    async def acquire(self, intent: Intent) -> Session | None:
        """Ask for the right to start a kernel.

        Returns the oldest session of the document, if there is one: nothing was written.
        Returns None when the intent is now in the store: the caller starts the kernel and
        then calls ``commit`` or ``drop_start``.

        Raises StartInProgress while another start of the document runs (one whose lease has
        lapsed is taken over), and KernelConflict when the kernel id that the intent asks for
        is in use or asked for by anyone in the store, or is being stopped.
        """

    @abstractmethod
    async def commit(self, token: str, session: Session) -> Session:
        """Exchange the 'start' intent of this token for the session, and return it.

        Raises StartLost when the intent is gone, or a session holds the document by now. The
        token then belongs to a 'stop' intent for the session's kernel.
        """

    @abstractmethod
    async def drop_start(self, token: str) -> None:
        """Remove a 'start' intent, if it is there."""

    # Sessions

    @abstractmethod
    async def attach(self, session: Session) -> Session:
        """Return the oldest session of the same document; if there is none, insert this one.

        Raises KernelConflict when the kernel is being started under its id or stopped, or was
        stopped less than ENDED_KEPT_FOR ago.
        """

    @abstractmethod
    async def insert(self, session: Session) -> Session:
        """Insert the session, whatever else holds its document.

        Raises KernelConflict as ``attach`` does, InvalidRequest when the id is taken.
        """

    @abstractmethod
    async def update(
        self,
        session_id: str,
        changes: Changes,
        *,
        start_token: str | None = None,
        stop_token: str,
        force: bool = False,
    ) -> Release:
        """Change a session. A kernel that nobody holds afterwards gets a 'stop' intent.

        ``start_token`` is exchanged as in ``commit`` when the new kernel was started for
        this; StartLost when it is gone. ``stop_token`` is the token of the 'stop' intent.
        With ``force`` the other sessions of the old kernel are removed, so that it is stopped
        in any case.

        Raises SessionNotFound, KernelConflict as ``attach`` does.
        """

    @abstractmethod
    async def rename_document(self, old: str, new: str) -> Sequence[Session]:
        """Change the sessions of the document ``old``, and of all documents in the folder
        ``old``, as Session.renamed does; return them as they are now, oldest first.

        Both are normalised paths, and not empty. Whatever else holds the new paths stays.
        """

    @abstractmethod
    async def delete(self, session_id: str, *, stop_token: str, force: bool = False) -> Release:
        """Remove a session. A kernel that nobody holds afterwards gets a 'stop' intent.

        With ``force`` the kernel's other sessions go too. Raises SessionNotFound.
        """

    @abstractmethod
    async def finish_stop(self, token: str) -> None:
        """Mark a 'stop' intent as 'ended', if it is there, and forget those long ended."""

    @abstractmethod
    async def end_sessions(self, sessions: Collection[Session]) -> Sequence[Session]:
        """Remove sessions whose kernels are gone, and return them.

        One that is there no more, or has another kernel by now, is left out.
        """

    # What others left behind

    @abstractmethod
    async def find_orphans(self, adopted: Collection[str] = ()) -> Orphans:
        """Return what other owners left in the namespace and will not come back for.

        That is all that dead owners left, and the sessions of the ``adopted`` kernels (by id),
        which are with this owner by now, whoever had them before.

        An owner is dead when it signed off, or when its lock could be taken; where its lock
        cannot be asked, when it was of an earlier boot of this host. Otherwise it is live or
        silent, and left alone. One that was silent for a day counts as dead here.
        """

    @abstractmethod
    async def recover(
        self,
        orphans: Orphans,
        *,
        adopted: Collection[Session] = (),
        ended: Collection[Session] = (),
        undone: Collection[Intent] = (),
    ) -> Sequence[Session]:
        """Take over the ``adopted`` sessions, each with the provider that it has here; remove
        the ``ended`` ones and the ``undone`` intents; forget dead owners that have left
        nothing else. All that is named neither way stays as it is.

        What somebody else has settled meanwhile is left alone. Returns the sessions that were
        removed by this call.
        """
