"""The interface of session stores. Its docstrings are the contract of every implementation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

from nbsessions.models import (
    Changes,
    Ending,
    EndReason,
    Intent,
    Kernel,
    Orphans,
    Owner,
    Release,
    Session,
    Sharing,
    Takeover,
)

START_LEASE = timedelta(seconds=60)
"""How long a kernel start may take before another request may take it over."""

LONGEST_LEASE = timedelta(minutes=10)
"""Leases are not longer than this, so one that seems to be tells of a clock that was set back."""

SHARED_FOR = timedelta(seconds=10)
"""How long after a start other requests for the document get its kernel."""

ENDED_KEPT_FOR = timedelta(minutes=10)
"""How long to remember a stopped kernel, so that no session attaches to it in the meantime."""

SILENT_KEPT_FOR = timedelta(hours=24)
"""How long an owner may send no heartbeat before it counts as dead.

Its kernels may still be running.
"""

ENDINGS_KEPT_FOR = timedelta(hours=24)
"""How long to remember why a session ended."""


class SessionStore(ABC):
    """The sessions, intents and owners of one namespace, as one owner sees them.

    Every mutation is one atomic transaction. It first increments the revision of the namespace,
    which orders all writes. Reads never change the revision. Mutations may be called
    concurrently and are applied one after the other, in any order.

    All methods except ``open`` and ``close`` see only the sessions of the *scope*, which are
    those that this owner can serve. Other owners have the same scope only if it is shared.
    ``find_endings`` and the methods for orphans also see the others in the namespace. While the
    store cannot be read, lists and look-ups of a scope that is not shared come from memory.
    Methods raise StoreUnavailable if nothing was written, and
    StoreUncertain if it is not known whether a commit succeeded. Cancelling the caller does not
    cancel the write.
    """

    check_interval: float = 5.0
    """Seconds between two calls of ``ensure_intact``."""

    can_be_replaced: bool = True
    """Whether a server may keep its sessions in memory while the store is of no use.

    False if other servers count on what this server writes.
    """

    outlives_server: bool = True
    """Whether the sessions are still there when this process has ended."""

    @abstractmethod
    async def open(self, owner: Owner) -> None:
        """Open the store and register ``owner``. The owner's scope is that of all later calls.

        Raises StoreError when the store cannot be used. Nothing is left open then, and the
        caller may try again.
        """

    @abstractmethod
    def close(self, running: Collection[str] = ()) -> None:
        """Finish queued writes, mark the owner as stopped, and close the store.

        The sessions and intents of all kernels are removed, except for the ``running`` kernels
        (by id). The removed sessions are recorded as STOPPED. In a shared scope, all sessions and
        intents stay, because other servers can go on with them. This method is synchronous and
        idempotent, and never raises. Later mutations raise StoreUnavailable.
        """

    @abstractmethod
    async def heartbeat(self) -> None:
        """Record that the owner is alive."""

    @abstractmethod
    async def ensure_intact(self) -> None:
        """Check that the store still has what this owner wrote. Called every few seconds.

        If the store was removed, replaced or restored to an earlier state, this owner's data is
        written again. If the owner's record was removed, the owner is registered again. Every
        mutation does the same.
        """

    # Reads

    @abstractmethod
    async def list_sessions(self) -> Sequence[Session]:
        """Return all sessions, oldest first.

        As long as nothing changes, the result should be the same object, so that its readers
        notice that. They must not change it.
        """

    @abstractmethod
    async def find_session(self, session_id: str) -> Session | None:
        """Return the session with this id, or None."""

    @abstractmethod
    async def list_by_document(self, document: str) -> Sequence[Session]:
        """Return the sessions of this document (a normalised path), oldest first."""

    @abstractmethod
    async def list_by_kernel(self, kernel_id: str) -> Sequence[Session]:
        """Return the sessions of this kernel, oldest first."""

    @abstractmethod
    async def find_intent(self, token: str) -> Intent | None:
        """Return the intent with this token, or None. Reads the store, not a cache."""

    @abstractmethod
    async def list_intents(self) -> Sequence[Intent]:
        """Return all intents of the scope. Reads the store, not a cache. Used only by tests."""

    @abstractmethod
    async def count_by_kernel(self, kernel_id: str) -> int:
        """Return how many sessions use the kernel. Reads the store, not a cache."""

    @abstractmethod
    async def find_endings(self, session_ids: Collection[str]) -> Mapping[str, Ending]:
        """Return why sessions of the namespace are not in this scope, by session id.

        A session that is in another scope is ELSEWHERE. Otherwise, this is the reason that was
        recorded in the last ENDINGS_KEPT_FOR, by any owner. Left out are the sessions of this
        scope, those that clients have deleted, and those that nothing is known of. Reads the
        store, not a cache.
        """

    # Starts

    @abstractmethod
    async def acquire(
        self, intent: Intent, *, sharing: Sharing | None = None, lease: timedelta = START_LEASE
    ) -> Session | Kernel | None:
        """Request the right to start a kernel.

        If the document has sessions already, writes nothing and returns the oldest of them. If a
        start with the same ``sharing`` was committed in the last SHARED_FOR, and its kernel still
        has a session of that document, writes nothing and returns the kernel.
        Otherwise stores the intent and returns None. The caller then starts the kernel and
        calls ``commit`` or ``drop_start``.

        Raises StartInProgress while another start for the document is in progress, or another
        start with the same ``sharing``, whichever owner of the scope carries it out. A start
        whose ``lease`` has expired, by the clock of the store, is taken over. So is one whose
        lease ends later than LONGEST_LEASE from now, because that clock was set back. Raises
        KernelConflict when the kernel id of the intent belongs to any session in the store, or
        to a kernel that is being started or stopped.
        """

    @abstractmethod
    async def commit(
        self,
        token: str,
        session: Session,
        *,
        sharing: Sharing | None = None,
        urgent: bool = True,
    ) -> Session:
        """Exchange the 'start' intent with this token for the session, and return the session.

        ``sharing`` is the one that the start was acquired with. If this is not ``urgent``, the
        result may come a little later, or when ``hurry`` is called.

        Raises StartLost when the intent no longer exists, or the document has a session by now.
        In this case a 'stop' intent for the session's kernel is stored with the same token.
        """

    def hurry(self) -> None:  # noqa: B027  # most stores have nothing that waits
        """Let the results of operations that were not urgent come as soon as possible."""

    @abstractmethod
    async def renew(self, token: str, *, lease: timedelta = START_LEASE) -> None:
        """Let the lease of a 'start' intent begin anew, if the intent exists."""

    @abstractmethod
    async def drop_start(self, token: str) -> None:
        """Remove a 'start' intent, if it exists."""

    # Sessions

    @abstractmethod
    async def attach(self, session: Session) -> Session:
        """Return the oldest session of the same document, or insert this session.

        Raises KernelConflict when an intent to start or stop the kernel exists, when the
        kernel was stopped less than ENDED_KEPT_FOR ago, or when another namespace in the store
        has the kernel.
        """

    @abstractmethod
    async def insert(self, session: Session) -> Session:
        """Insert the session, even if its document has other sessions.

        An ending that was recorded for an earlier session with this id is forgotten.

        Raises KernelConflict under the same conditions as ``attach``, and InvalidRequest when
        the session id is taken.
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
        """Change a session. If no session uses the old kernel now, add a 'stop' intent for it.

        ``start_token`` is the token of the 'start' intent if the new kernel was started for this
        update. As in ``commit``, the intent is removed, or StartLost is raised if it no longer
        exists. ``stop_token`` is the token of the 'stop' intent. With ``force``, the other
        sessions of the old kernel are removed, so that the kernel is always stopped.

        Raises SessionNotFound, and KernelConflict under the same conditions as ``attach``.
        """

    @abstractmethod
    async def rename_document(self, old: str, new: str) -> Sequence[Session]:
        """Rename the document or folder ``old`` to ``new`` in all sessions that it concerns.

        Each session is changed with Session.renamed. Returns the changed sessions, oldest first.
        Both paths are normalised and not empty. Sessions that already have one of the new paths
        are left alone.
        """

    @abstractmethod
    async def delete(self, session_id: str, *, stop_token: str, force: bool = False) -> Release:
        """Remove a session. If no other session uses its kernel, add a 'stop' intent for it.

        With ``force``, the kernel's other sessions are removed too. Raises SessionNotFound.
        """

    @abstractmethod
    async def finish_stop(self, token: str) -> None:
        """Mark a 'stop' intent as 'ended', if it exists, and remove old 'ended' intents."""

    @abstractmethod
    async def end_sessions(self, sessions: Collection[Session]) -> Sequence[Session]:
        """Remove sessions whose kernels are dead, and return the removed sessions.

        They are recorded as ENDED. Sessions that no longer exist, or that have another kernel by
        now, are skipped.
        """

    @abstractmethod
    async def end_kernel(
        self, kernel_id: str, session_ids: Collection[str], *, stop_token: str
    ) -> Sequence[Session] | None:
        """Remove all sessions of a kernel, and add a 'stop' intent for it.

        The removed sessions are returned, and recorded as ENDED. If ``session_ids`` are not the
        ids of all its sessions, another server or a client has changed them since the caller
        looked. In this case, and if an intent to start or stop the kernel exists as in
        ``attach``, nothing is written and None is returned.
        """

    # Orphans

    @abstractmethod
    async def find_orphans(self, adopted: Collection[str] = ()) -> Orphans:
        """Return the sessions and intents in the namespace that dead owners left behind.

        Owners that share another scope than this owner are left to those who share it with them.
        The result also has the sessions of the ``adopted`` kernels (by id), whose previous owner
        may be live or dead. This owner serves these kernels now.

        An owner is dead if it marked itself as stopped, or if its process has ended, as its lock
        or its process id on this machine shows. Where neither can be checked, an owner is dead if
        it has sent no heartbeat for a day. Minutes at most are enough if it ran in another boot of
        this host, or if its scope is shared: the sessions there go on without it, and it learns
        of that at its next write. The data of all others is left alone.
        """

    @abstractmethod
    async def claim(self, intents: Collection[Intent]) -> Sequence[Intent]:
        """Make intents of dead owners in the shared scope intents of this owner.

        A 'start' that is claimed can no longer be committed, even if its owner is alive. Returns
        those that no other server has claimed or completed in the meantime. The caller carries
        them out.
        """

    @abstractmethod
    async def recover(
        self,
        orphans: Orphans,
        *,
        adopted: Collection[Session] = (),
        ended: Collection[tuple[Session, EndReason]] = (),
        undone: Collection[Intent] = (),
    ) -> Sequence[Session]:
        """Take over or remove what ``find_orphans`` returned.

        The ``adopted`` sessions get the scope of this owner and the provider given in the
        argument. The ``ended`` sessions are removed and recorded with the reasons given. The
        ``undone`` intents are removed, and so are the records of dead owners that have no other
        sessions or intents. Everything else stays as it is. Of a shared scope with sessions, the
        record of the owner that has served it last always stays, however long ago that was.

        Sessions and intents that another server has recovered in the meantime are left alone.
        Returns the sessions that this call removed.
        """

    # Scopes that no server serves

    @abstractmethod
    def for_namespace(self, namespace: str) -> SessionStore:
        """Return the store of another namespace in the same place. It is not open yet."""

    @abstractmethod
    async def find_unserved(self, after: timedelta) -> Mapping[str, Collection[str]]:
        """Return the other namespaces in which no server has served the shared scope for so long.

        Maps each of them to the ids of the kernels in its sessions and in its open intents. A
        namespace is left out if an owner in it is not dead and serves the scope or has an open
        intent in it, or if it is not known when the scope was last served. So is any namespace
        whose rows this owner may not see.
        """

    @abstractmethod
    async def take_unserved(
        self,
        scope: str,
        *,
        after: timedelta | None = None,
        session_ids: Collection[str] | None = None,
    ) -> Takeover | None:
        """Take what is left in a shared scope of this namespace that no server serves.

        The owner of this store has another scope, so that it does not count as a server itself.
        The sessions, or those with the given ids, are removed and recorded as DIED. For each of
        their kernels that no other session uses, a 'stop' intent is stored. All intents of dead
        owners in the scope are claimed, see ``claim``. The caller carries the intents out.

        Returns None and writes nothing if the namespace does not belong in ``find_unserved``. If
        ``after`` is None, it need not be known for how long the scope was not served.
        """
