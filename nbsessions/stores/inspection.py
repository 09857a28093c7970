"""The interface by which the command line reads stores, without being a server."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from nbsessions.models import Intent, Owner, Session


class OwnerState(str, enum.Enum):
    """Whether an owner is alive."""

    LIVE = "live"
    SILENT = "silent"
    """Unknown. It has sent no heartbeat for a while, and its process cannot be seen from here."""
    DEAD = "dead"


_LIVELY = {state: rank for rank, state in enumerate(OwnerState)}


@dataclass(frozen=True, kw_only=True)
class StoredOwner:
    """One run of a server that has written to the store."""

    owner: Owner
    namespace: str
    silent_for: timedelta | None
    """How long ago its last heartbeat was, by the clock of the store. None if that is unknown."""
    state: OwnerState

    @property
    def dead(self) -> bool:
        """Whether other servers may take over what it has left."""
        return self.state is OwnerState.DEAD


@dataclass(frozen=True, kw_only=True)
class StoredSession:
    """A session and its namespace."""

    namespace: str
    session: Session

    @property
    def scope(self) -> str:
        """Which owners can serve the session."""
        return self.session.scope


@dataclass(frozen=True, kw_only=True)
class StoredIntent:
    """The intent of a start or stop that is not completed, and its namespace."""

    namespace: str
    intent: Intent

    @property
    def scope(self) -> str:
        """Which owners can complete it."""
        return self.intent.scope


@dataclass(frozen=True, kw_only=True)
class StoreContents:
    """Sessions, intents and owners, oldest first."""

    sessions: tuple[StoredSession, ...] = ()
    intents: tuple[StoredIntent, ...] = ()
    owners: tuple[StoredOwner, ...] = ()

    def owner_of(self, stored: StoredSession | StoredIntent) -> StoredOwner | None:
        """Return the owner that can serve or complete it, or None. Prefers a living one."""
        able = (
            each
            for each in self.owners
            if each.owner.scope == stored.scope
            # Servers of several namespaces may share a gateway, after which a scope is named.
            and (not each.owner.shared_scope or each.namespace == stored.namespace)
        )
        return min(able, key=_by_life, default=None)


def _by_life(stored: StoredOwner) -> tuple[int, timedelta]:
    return _LIVELY[stored.state], timedelta.max if stored.silent_for is None else stored.silent_for


@dataclass(frozen=True, kw_only=True)
class TableAccess:
    """What a role may do with one of our tables."""

    name: str
    denied: tuple[str, ...]
    """The privileges that servers need and the role lacks, for example ``INSERT``."""
    excessive: tuple[str, ...]
    """The privileges that the role has and servers do not need. Empty for the owner."""
    is_private: bool
    """Whether its rows belong to namespaces, and can be kept from other roles."""
    has_row_security: bool
    row_security_applies: bool
    """Whether row-level security restricts this role. The owner of the table sees everything."""


@dataclass(frozen=True, kw_only=True)
class Population:
    """How much there is in the store, as far as this role can see it."""

    sessions: int
    owners: int
    """Those that have not been stopped."""
    namespaces: int


@dataclass(frozen=True, kw_only=True)
class DatabaseCondition:
    """What a database server tells about itself, its tables and the connection to it."""

    version: str
    version_number: int
    """For example 180002 for version 18.2."""
    role: str
    takes_writes: bool
    """False for a standby, and if the server or the role is set to be read-only."""
    latency: timedelta
    """The shortest of several round trips."""
    clock_difference: timedelta
    """How far its clock is ahead of this machine's."""
    encrypted: bool
    is_local: bool
    """Whether the connection stays on this machine."""
    pooled: bool
    """Whether a connection pooler is between."""
    may_create: bool
    """Whether the role may create tables."""
    schema: int | None
    """The version of our tables, 0 if there are none, or None if it cannot be read."""
    newest: int
    """The version that this release creates."""
    too_new: str | None
    """Why this release cannot use the tables of a newer one, or None if it can."""
    tables: tuple[TableAccess, ...]
    granted: frozenset[str] | None
    """The namespaces that row-level security lets this role use, or None if it may use all."""
    population: Population | None
    """None if the tables cannot be read."""


class StoreInspection(ABC):
    """Reads one store. It registers nothing and writes nothing. All methods block."""

    name: str
    """Where the store is, for messages. It contains no secret."""

    file: Path | None = None
    """The file that the store consists of, if it is one."""

    namespace_is_folder = False
    """Whether the namespace of a server is its root directory, unless another is configured."""

    @abstractmethod
    def read_contents(self, namespace: str | None = None) -> StoreContents:
        """Return the contents of one namespace, or of all with None. Raises StoreError."""


class DatabaseInspection(StoreInspection):
    """Reads a store in a database server."""

    @abstractmethod
    def examine(self) -> DatabaseCondition:
        """Examine the server, its tables and the connection to it. Raises StoreError."""
